//! What this handler counts, under KubeVirt's names where KubeVirt has one.

use std::sync::LazyLock;

use kubevirt_types::Release;
use prometheus::{IntGauge, register_int_gauge, register_int_gauge_vec};

const VALID: &str = "the metric's name is valid and registered once";

/// Whether this handler is ready.
pub static READY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("kubevirt_virt_handler_ready_status", "Whether virt-handler is ready.").expect(VALID)
});

/// Whether this handler holds its node's lock.
pub static LOCK_HELD: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_virt_handler_lock_held",
        "Whether this virt-handler is the one that acts on its node."
    )
    .expect(VALID)
});

/// Console and screen streams that are open.
pub static STREAMS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_virt_handler_console_streams",
        "Console and VNC streams that this virt-handler carries."
    )
    .expect(VALID)
});

/// Launchers that ran already when this handler started.
pub static ADOPTED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_virt_handler_adopted_launchers",
        "Launchers that were running when this virt-handler started and answered it."
    )
    .expect(VALID)
});

/// Makes all metrics visible, with what this handler is.
pub fn export(release: &Release) {
    for gauge in [&READY, &LOCK_HELD, &STREAMS, &ADOPTED] {
        gauge.set(0);
    }
    register_int_gauge_vec!("kubevirt_info", "Version information.", &["kubeversion"])
        .expect(VALID)
        .with_label_values(&[&release.to_string()])
        .set(1);
}
