//! What virt-api counts, under KubeVirt's names where it has one.

use std::sync::LazyLock;
use std::time::Duration;

use kubevirt_runtime::health::Health;
use kubevirt_types::Release;
use kubevirt_types::gate;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, register_histogram_vec,
    register_int_counter, register_int_counter_vec, register_int_gauge_vec,
};

use crate::instance::Stream;
use crate::watch::View;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "kubevirt_virt_api_requests_total",
        "Requests to virt-api, by route and status code.",
        &["method", "path", "code"]
    )
    .expect("the metric's name is valid and registered once")
});
static RESUMES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "kubevirt_virt_api_stream_resumes_total",
        "Streams that lost their virt-handler behind a client's open connection, by what became of them.",
        &["stream", "outcome"]
    )
    .expect("the metric's name is valid and registered once")
});
/// Seconds. From what nobody notices to the minute after which a stream is given up.
const GAPS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
static GAP: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "kubevirt_virt_api_stream_gap_seconds",
        "How long a stream that lost its virt-handler had none before another one opened it again.",
        &["stream"],
        GAPS.to_vec()
    )
    .expect("the metric's name is valid and registered once")
});
static UNFOLLOWED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "kubevirt_virt_api_screens_unfollowed_total",
        "Screens whose protocol virt-api could not follow: they were carried on, but end with their virt-handler."
    )
    .expect("the metric's name is valid and registered once")
});
static CONSOLES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "kubevirt_console_active_connections",
        "Open connections to a console, by namespace and VMI.",
        &["namespace", "vmi"]
    )
    .expect("the metric's name is valid and registered once")
});
static SCREENS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "kubevirt_vnc_active_connections",
        "Open connections to a screen, by namespace and VMI.",
        &["namespace", "vmi"]
    )
    .expect("the metric's name is valid and registered once")
});
static TUNNELS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "kubevirt_portforward_active_tunnels",
        "Open tunnels to a port of a guest, by namespace and VMI.",
        &["namespace", "vmi"]
    )
    .expect("the metric's name is valid and registered once")
});

/// Counts an answered request.
pub fn count_request(method: &str, path: &str, code: u16) {
    REQUESTS.with_label_values(&[method, path, &code.to_string()]).inc();
}

/// What became of a stream that lost its virt-handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It went on, and nothing is missing.
    Seamless,
    /// It went on, but bytes had been forgotten by then.
    WithGap,
    /// It ended.
    Ended,
}

/// Counts a stream that lost its virt-handler.
pub fn count_resume(stream: Stream, outcome: Resume) {
    let outcome = match outcome {
        Resume::Seamless => "seamless",
        Resume::WithGap => "with_gap",
        Resume::Ended => "ended",
    };
    RESUMES.with_label_values(&[stream.name(), outcome]).inc();
}

/// Counts for how long a stream had no virt-handler.
pub fn count_gap(stream: Stream, gap: Duration) {
    GAP.with_label_values(&[stream.name()]).observe(gap.as_secs_f64());
}

/// Counts a screen that can't be followed any more.
pub fn count_unfollowed() {
    UNFOLLOWED.inc();
}

/// A client's open stream; counted as long as it lives.
pub struct OpenStream {
    gauges: &'static IntGaugeVec,
    labels: [String; 2],
}

impl OpenStream {
    /// Counts one more.
    pub fn new(stream: Stream, namespace: &str, vmi: &str) -> Self {
        let gauges: &'static IntGaugeVec = match stream {
            Stream::Console => &CONSOLES,
            Stream::Vnc => &SCREENS,
        };
        Self::counted_by(gauges, namespace, vmi)
    }

    /// Counts one more tunnel to a port.
    pub fn tunnel(namespace: &str, vmi: &str) -> Self {
        Self::counted_by(&TUNNELS, namespace, vmi)
    }

    fn counted_by(gauges: &'static IntGaugeVec, namespace: &str, vmi: &str) -> Self {
        let labels = [namespace.to_owned(), vmi.to_owned()];
        gauges.with_label_values(&labels).inc();
        Self { gauges, labels }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let gauge = self.gauges.with_label_values(&self.labels);
        gauge.dec();
        if gauge.get() == 0 {
            // Names of VMs that are long gone would stay for the process's life.
            let _ = self.gauges.remove_label_values(&self.labels);
        }
    }
}

/// Registers what is looked up when somebody asks: the version gate and readiness.
pub fn register(own: Release, view: View, health: Health) -> Result<(), prometheus::Error> {
    let open = IntGauge::new(
        "kubevirt_version_gate_open",
        "Whether all that this virt-api's release brought may be used.",
    )?;
    let floor = IntGaugeVec::new(
        Opts::new("kubevirt_version_gate_floor_info", "The lowest release that a controller reports."),
        &["release"],
    )?;
    let ready = IntGauge::new("kubevirt_virt_api_ready_status", "Whether this virt-api is ready.")?;
    prometheus::register(Box::new(Looked { own, view, health, open, floor, ready }))
}

struct Looked {
    own: Release,
    view: View,
    health: Health,
    open: IntGauge,
    floor: IntGaugeVec,
    ready: IntGauge,
}

impl Collector for Looked {
    fn desc(&self) -> Vec<&Desc> {
        [self.open.desc(), self.floor.desc(), self.ready.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let gate = gate::status(&self.own, &self.view.floor());
        self.open.set(gate.open.into());
        self.floor.reset();
        self.floor.with_label_values(&[gate.floor.as_deref().unwrap_or("unknown")]).set(1);
        self.ready.set(self.health.not_ready().is_empty().into());
        [self.open.collect(), self.floor.collect(), self.ready.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// virt-operator reads these names and labels into an update's report (`virt-operator/src/prober/streams.rs`).
    #[test]
    fn what_an_updates_report_is_made_from_has_its_names() {
        count_request("GET", "/healthz", 200);
        count_resume(Stream::Console, Resume::Seamless);
        count_gap(Stream::Console, Duration::from_millis(40));
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()).unwrap();
        for line in [
            r#"kubevirt_virt_api_requests_total{code="200",method="GET",path="/healthz"} 1"#,
            r#"kubevirt_virt_api_stream_resumes_total{outcome="seamless",stream="console"} 1"#,
            r#"kubevirt_virt_api_stream_gap_seconds_bucket{stream="console",le="0.05"} 1"#,
            r#"kubevirt_virt_api_stream_gap_seconds_sum{stream="console"} 0.04"#,
            r#"kubevirt_virt_api_stream_gap_seconds_count{stream="console"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
