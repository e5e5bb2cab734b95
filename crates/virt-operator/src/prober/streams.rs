//! What the virt-apis count of their streams: their own metrics, from pod to pod.
//!
//! It asks and reads; what it means that one says nothing, or is there no more, is `kubevirt_rollout::report`'s.

use std::time::Duration;

use futures::future::join_all;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config};
use kubevirt_observe::Source;
use kubevirt_observe::kinds::{CONFIG_MAP, POD};
use kubevirt_observe::x509::bundle_der;
use kubevirt_rollout::report::{ApiPod, ApiStreams};
use kubevirt_types::{ObjectKey, labels};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::cache::Cache;

/// A virt-api that has closed its listener refuses at once; one whose node is lost never answers.
const LIMIT: Duration = Duration::from_secs(2);
/// virt-api's Deployment and Service.
const VIRT_API: &str = "virt-api";
/// Where it listens.
const PORT: u16 = 8443;

/// A virt-api's pod, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    pod: ApiPod,
    address: Option<String>,
}

/// Asks every virt-api once.
pub async fn look(cache: &Cache, namespace: &str) -> Vec<ApiPod> {
    let bundle = cache.get(&ObjectKey::namespaced("v1", CONFIG_MAP, namespace, labels::CONFIGMAP_CA));
    let trusted = bundle.as_ref().and_then(|bundle| bundle["data"][labels::CA_BUNDLE_KEY].as_str());
    let trusted = bundle_der(trusted.unwrap_or_default());
    let asked = cache.of_kind(POD).iter().filter_map(api_pod).collect::<Vec<_>>();
    let look = async |Asked { pod, address }| {
        let said = said(address.as_deref(), &trusted, namespace).await;
        ApiPod { said, ..pod }
    };
    join_all(asked.into_iter().map(look)).await
}

fn api_pod(object: &Value) -> Option<Asked> {
    let pod = Pod::deserialize(object).ok()?;
    let label = pod.metadata.labels.as_ref()?.get(labels::APP)?;
    (label == VIRT_API).then_some(())?;
    Some(Asked { pod: ApiPod::of(&pod)?, address: pod.status.and_then(|status| status.pod_ip) })
}

/// What one says, if it answers in time.
async fn said(address: Option<&str>, trusted: &[Vec<u8>], namespace: &str) -> Option<ApiStreams> {
    let text = timeout(LIMIT, metrics(address?, trusted, namespace)).await;
    text.ok()?.map(|text| count(&text))
}

/// A pod's metrics, from one that shows a certificate of virt-api's.
async fn metrics(address: &str, trusted: &[Vec<u8>], namespace: &str) -> Option<String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut config = Config::new(format!("https://{host}:{PORT}").parse().ok()?);
    config.root_cert = Some(trusted.to_vec());
    config.tls_server_name = Some(format!("{VIRT_API}.{namespace}.svc"));
    config.default_retry = false;
    let client = Client::try_from(config).ok()?;
    let request = Request::get("/metrics").body(vec![]).ok()?;
    let asked = client.request_text(request).await;
    asked.inspect_err(|error| tracing::debug!(address, error = crate::chain(error), "no metrics")).ok()
}

/// What the metrics say of streams. What one of them doesn't name has not happened.
fn count(metrics: &str) -> ApiStreams {
    let mut streams = ApiStreams::default();
    for line in metrics.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if name == "kubevirt_virt_api_stream_gap_seconds_sum" {
            streams.gaps.sum_milliseconds += milliseconds(value).unwrap_or(0);
            continue;
        }
        let Some(value) = whole(value) else { continue };
        match name {
            "kubevirt_console_active_connections" | "kubevirt_vnc_active_connections" => {
                streams.open += value
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"seamless\"") => {
                streams.resumed += value;
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"with_gap\"") => {
                streams.resumed_with_gap += value;
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"ended\"") => {
                streams.cut += value;
            }
            "kubevirt_virt_api_requests_total" => streams.requests += value,
            "kubevirt_virt_api_stream_gap_seconds_count" => streams.gaps.count += value,
            "kubevirt_virt_api_stream_gap_seconds_bucket" => {
                // all of them are within `+Inf`, which bounds nothing
                if let Some(bound) = label(labels, "le").and_then(milliseconds) {
                    streams.gaps.add_within(bound, value);
                }
            }
            _ => {}
        }
    }
    streams
}

/// A counter's value; Prometheus writes whole numbers without a point.
fn whole(value: &str) -> Option<u64> {
    value.strip_suffix(".0").unwrap_or(value).parse().ok()
}

/// Seconds as Prometheus writes them.
fn milliseconds(seconds: &str) -> Option<u64> {
    let length = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    u64::try_from(length.as_micros().div_ceil(1000)).ok()
}

/// A label's value, in what stands between a series' braces.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut all = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    all.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_rollout::report::Within;
    use serde_json::json;

    #[test]
    fn streams_are_counted_over_instances_and_kinds() {
        let metrics = r#"# HELP kubevirt_console_active_connections Open connections to a console, by namespace and VMI.
# TYPE kubevirt_console_active_connections gauge
kubevirt_console_active_connections{namespace="a",vmi="x"} 2
kubevirt_console_active_connections{namespace="a",vmi="y"} 1
kubevirt_vnc_active_connections{namespace="a",vmi="x"} 1
kubevirt_portforward_active_tunnels{namespace="a",vmi="x"} 7
kubevirt_virt_api_requests_total{code="200",method="GET",path="/metrics"} 40
kubevirt_virt_api_requests_total{code="404",method="GET",path="/x"} 2
kubevirt_virt_api_stream_resumes_total{outcome="ended",stream="console"} 1
kubevirt_virt_api_stream_resumes_total{outcome="seamless",stream="console"} 5
kubevirt_virt_api_stream_resumes_total{outcome="with_gap",stream="console"} 2
"#;
        let streams = count(metrics);
        let numbers = (streams.open, streams.resumed, streams.resumed_with_gap, streams.cut);
        assert_eq!((numbers, streams.requests), ((4, 5, 2, 1), 42));
        assert!(streams.gaps.is_empty(), "an older virt-api doesn't say");
    }

    #[test]
    fn gaps_are_read_from_the_histogram() {
        let metrics = r#"# TYPE kubevirt_virt_api_stream_gap_seconds histogram
kubevirt_virt_api_stream_gap_seconds_bucket{stream="console",le="0.025"} 0
kubevirt_virt_api_stream_gap_seconds_bucket{stream="console",le="0.5"} 3
kubevirt_virt_api_stream_gap_seconds_bucket{stream="console",le="+Inf"} 4
kubevirt_virt_api_stream_gap_seconds_sum{stream="console"} 1.2345
kubevirt_virt_api_stream_gap_seconds_count{stream="console"} 4
kubevirt_virt_api_stream_gap_seconds_bucket{stream="vnc",le="0.025"} 1
kubevirt_virt_api_stream_gap_seconds_bucket{stream="vnc",le="0.5"} 1
kubevirt_virt_api_stream_gap_seconds_bucket{stream="vnc",le="+Inf"} 1
kubevirt_virt_api_stream_gap_seconds_sum{stream="vnc"} 0.02
kubevirt_virt_api_stream_gap_seconds_count{stream="vnc"} 1
"#;
        let gaps = count(metrics).gaps;
        assert_eq!((gaps.count, gaps.sum_milliseconds), (5, 1235 + 20));
        let within = [(25, 1), (500, 4)].map(|(milliseconds, count)| Within { milliseconds, count });
        assert_eq!(gaps.within, within);
    }

    #[test]
    fn a_pod_of_virt_api_is_known_by_its_label() {
        let pod = |app: &str| {
            json!({
                "metadata": {"name": "p", "labels": {"kubevirt.io": app}, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"podIP": "10.0.0.1"},
            })
        };
        assert_eq!(api_pod(&pod("virt-api")).unwrap().address.as_deref(), Some("10.0.0.1"));
        assert_eq!(api_pod(&pod("virt-handler")), None);
    }
}
