//! What virt-controller counts, under KubeVirt's names.

use std::sync::LazyLock;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

const VALID: &str = "the metric's name is valid and registered once";

static DEPTH: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("kubevirt_workqueue_depth", "Keys that wait for a worker.", &["name"])
        .expect(VALID)
});
static ADDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("kubevirt_workqueue_adds_total", "Keys that were added.", &["name"])
        .expect(VALID)
});
static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "kubevirt_workqueue_retries_total",
        "Work that failed and is tried again.",
        &["name"]
    )
    .expect(VALID)
});
static READY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_virt_controller_ready_status",
        "1 for a replica whose caches are filled, so that it could lead at once."
    )
    .expect(VALID)
});

/// Says whether this replica could lead at once.
pub fn ready(ready: bool) {
    READY.set(ready.into());
}

/// What one queue counts.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    /// Keys that wait.
    pub depth: IntGauge,
    /// Keys added.
    pub adds: IntCounter,
    /// Failures.
    pub retries: IntCounter,
}

impl QueueMetrics {
    /// Exported with this name.
    pub fn named(name: &str) -> Self {
        Self {
            depth: DEPTH.with_label_values(&[name]),
            adds: ADDS.with_label_values(&[name]),
            retries: RETRIES.with_label_values(&[name]),
        }
    }

    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        Self {
            depth: IntGauge::new("depth", "depth").unwrap(),
            adds: IntCounter::new("adds", "adds").unwrap(),
            retries: IntCounter::new("retries", "retries").unwrap(),
        }
    }
}
