//! What virt-operator tells Prometheus. KubeVirt's own names where it has one.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, IntCounterVec, IntGauge, IntGaugeVec, register_histogram, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

const ONCE: &str = "the metric's name is valid and registered once";

static READY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("kubevirt_virt_operator_ready_status", "Whether this virt-operator is ready.")
        .expect(ONCE)
});
static STAGE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "kubevirt_virt_operator_stage",
        "1 at the stage where the installation is; the others are absent.",
        &["stage"]
    )
    .expect(ONCE)
});
static RECONCILE: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "kubevirt_virt_operator_reconcile_duration_seconds",
        "How long observing, planning, applying and writing the status took.",
        vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]
    )
    .expect(ONCE)
});
static STEPS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "kubevirt_virt_operator_steps_total",
        "Steps carried out, by the kind of the object, the verb, and how it ended.",
        &["kind", "verb", "result"]
    )
    .expect(ONCE)
});

/// Says whether this replica is ready to lead and to answer webhooks.
pub fn ready(is_ready: bool) {
    READY.set(is_ready.into());
}

/// Says at which stage the installation is.
pub fn stage(stage: &str) {
    STAGE.reset();
    STAGE.with_label_values(&[stage]).set(1);
}

/// Counts one run of the reconciler.
pub fn reconciled(took: Duration) {
    RECONCILE.observe(took.as_secs_f64());
}

/// Counts one step.
pub fn step(kind: &str, verb: &str, result: &str) {
    STEPS.with_label_values(&[kind, verb, result]).inc();
}
