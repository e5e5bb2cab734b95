//! What virt-controller counts, under KubeVirt's names.

use std::sync::LazyLock;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

use kubevirt_types::migration::{MigrationPhase, VirtualMachineInstanceMigration};

use crate::decision::News;

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

static MIGRATIONS_PENDING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("kubevirt_vmi_migrations_in_pending_phase", "Migrations that wait for their turn.")
        .expect(VALID)
});
static MIGRATIONS_SCHEDULING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_vmi_migrations_in_scheduling_phase",
        "Migrations whose target pod isn't ready yet."
    )
    .expect(VALID)
});
static MIGRATIONS_RUNNING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "kubevirt_vmi_migrations_in_running_phase",
        "Migrations whose launchers prepare or copy the guest's memory."
    )
    .expect(VALID)
});
static MIGRATIONS_SUCCEEDED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "kubevirt_vmi_migration_succeeded",
        "Migrations after which the guest ran at its target, as far as this replica led."
    )
    .expect(VALID)
});
static MIGRATIONS_FAILED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "kubevirt_vmi_migration_failed",
        "Migrations that didn't move their guest, as far as this replica led."
    )
    .expect(VALID)
});

/// Reason of the event on a migration and on its instance when the guest runs at the target.
pub const MIGRATION_SUCCEEDED: &str = "SuccessfulMigration";
/// Reason of the event on a migration and on its instance when the guest hasn't moved.
pub const MIGRATION_FAILED: &str = "FailedMigration";

/// Counts what people are told of a migration.
pub fn told(news: &News) {
    if news.about.kind.as_deref() != Some("VirtualMachineInstanceMigration") {
        return;
    }
    match news.reason {
        MIGRATION_SUCCEEDED => MIGRATIONS_SUCCEEDED.inc(),
        MIGRATION_FAILED => MIGRATIONS_FAILED.inc(),
        _ => {}
    }
}

/// Counts migrations by their phase.
pub fn migrations<'a>(all: impl Iterator<Item = &'a VirtualMachineInstanceMigration>) {
    let (mut pending, mut scheduling, mut running) = (0, 0, 0);
    for migration in all {
        match migration.status.as_ref().map(|status| status.phase).unwrap_or_default() {
            MigrationPhase::Unset | MigrationPhase::Pending => pending += 1,
            MigrationPhase::Scheduling | MigrationPhase::Scheduled => scheduling += 1,
            MigrationPhase::PreparingTarget | MigrationPhase::TargetReady | MigrationPhase::Running => {
                running += 1;
            }
            MigrationPhase::Succeeded | MigrationPhase::Failed => {}
        }
    }
    MIGRATIONS_PENDING.set(pending);
    MIGRATIONS_SCHEDULING.set(scheduling);
    MIGRATIONS_RUNNING.set(running);
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn migrations_are_counted_by_phase_and_ends_once() {
        let all: Vec<VirtualMachineInstanceMigration> =
            ["", "Pending", "Scheduling", "PreparingTarget", "TargetReady", "Running", "Failed"]
                .iter()
                .map(|phase| serde_json::from_value(json!({"status": {"phase": phase}})).unwrap())
                .collect();
        migrations(all.iter());
        let gauges = [&MIGRATIONS_PENDING, &MIGRATIONS_SCHEDULING, &MIGRATIONS_RUNNING];
        assert_eq!(gauges.map(|gauge| gauge.get()), [2, 1, 3]);

        let news = |kind: &str, reason| News {
            about: serde_json::from_value(json!({ "kind": kind })).unwrap(),
            warning: false,
            reason,
            note: String::new(),
        };
        told(&news("VirtualMachineInstanceMigration", MIGRATION_SUCCEEDED));
        told(&news("VirtualMachineInstance", MIGRATION_SUCCEEDED));
        told(&news("VirtualMachineInstanceMigration", "SuccessfulHandOver"));
        assert_eq!((MIGRATIONS_SUCCEEDED.get(), MIGRATIONS_FAILED.get()), (1, 0));
    }
}
