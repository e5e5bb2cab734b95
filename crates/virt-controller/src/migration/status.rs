//! How a migration's status reads in each phase.

use jiff::Timestamp;
use kubevirt_types::VirtualMachineInstanceMigration;
use kubevirt_types::condition::{self, Condition};
use kubevirt_types::migration::{
    MigrationPhase, MigrationPhaseTransition, VirtualMachineInstanceMigrationStatus,
};
use serde_json::Value;

use crate::merge;

/// What keeps a migration from going on.
const WAITING: &str = "Waiting";
/// Why it has failed.
const FAILED: &str = "Failed";
/// Reason of the condition while the target pod is refused.
const REFUSED: &str = "FailedCreate";

/// When a phase was reached.
pub(super) fn reached(
    migration: &VirtualMachineInstanceMigration,
    phase: MigrationPhase,
) -> Option<Timestamp> {
    let all = &migration.status.as_ref()?.phase_transition_timestamps;
    all.iter().rev().find(|t| t.phase == phase).map(|t| t.phase_transition_timestamp)
}

/// Moves to a phase, once; what it waited for before is over.
pub(super) fn enter(
    status: &mut VirtualMachineInstanceMigrationStatus,
    phase: MigrationPhase,
    now: Timestamp,
) {
    if status.phase == phase {
        return;
    }
    status.phase = phase;
    status
        .phase_transition_timestamps
        .push(MigrationPhaseTransition { phase, phase_transition_timestamp: now });
    condition::remove(&mut status.conditions, WAITING);
}

/// Says what it waits for.
pub(super) fn wait(
    status: &mut VirtualMachineInstanceMigrationStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    condition::set(&mut status.conditions, Condition::new(WAITING, true, reason, message), now);
}

/// Nothing keeps it.
pub(super) fn go_on(status: &mut VirtualMachineInstanceMigrationStatus) {
    condition::remove(&mut status.conditions, WAITING);
}

/// The guest hasn't moved, and why.
pub(super) fn fail(
    status: &mut VirtualMachineInstanceMigrationStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    enter(status, MigrationPhase::Failed, now);
    condition::set(&mut status.conditions, Condition::new(FAILED, true, reason, message), now);
}

/// Whether the API server has refused its target pod: others needn't wait behind it.
pub fn is_refused(migration: &VirtualMachineInstanceMigration) -> bool {
    let conditions = migration.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|c| c.type_ == WAITING && c.reason.as_deref() == Some(REFUSED))
}

/// The status patch that tells of a write that failed; none when it stands there already.
pub fn on_failure(
    migration: &VirtualMachineInstanceMigration,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Value> {
    let mut status = migration.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return None;
    }
    wait(&mut status, reason, message, now);
    merge::status_patch(migration.status.as_ref(), &status)
}
