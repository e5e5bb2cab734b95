//! A migration that its instance knows of: its phase follows what the virt-handlers say there.

use kubevirt_types::migration::{MigrationPhase, MigrationState};

use super::{Round, delete_pod, status};
use crate::metrics::{MIGRATION_FAILED, MIGRATION_SUCCEEDED};

/// What to do about a migration of which the instance says this.
pub(super) fn decide(round: &mut Round<'_>, state: &MigrationState) {
    let before = round.status.phase;
    let reached = phase_of(state);
    if reached.rank() <= before.rank() {
        return;
    }
    round.status.migration_state = Some(state.clone());
    match reached {
        MigrationPhase::Succeeded => {
            round.enter(reached);
            round.tell(false, MIGRATION_SUCCEEDED, "Source node reported migration succeeded");
            round.let_go();
        }
        MigrationPhase::Failed => {
            let reason = if state.abort_requested { "Aborted" } else { "MigrationFailed" };
            let why = state.failure_reason.as_deref().unwrap_or("nobody says why");
            round.decision.actions.extend(round.inputs.target_pod().and_then(delete_pod));
            status::fail(&mut round.status, reason, why, round.now);
            round.tell(true, MIGRATION_FAILED, &format!("Source node reported migration failed: {why}"));
            round.let_go();
        }
        MigrationPhase::PreparingTarget => {
            round.enter(reached);
            round.tell(
                false,
                "SuccessfulHandOver",
                "Migration target pod is ready for preparation by virt-handler.",
            );
        }
        MigrationPhase::Unset
        | MigrationPhase::Pending
        | MigrationPhase::Scheduling
        | MigrationPhase::Scheduled
        | MigrationPhase::TargetReady
        | MigrationPhase::Running => round.enter(reached),
    }
}

/// The phase that a state is in.
fn phase_of(state: &MigrationState) -> MigrationPhase {
    if state.completed {
        MigrationPhase::Succeeded
    } else if state.failed {
        MigrationPhase::Failed
    } else if state.start_timestamp.is_some() {
        MigrationPhase::Running
    } else if state.target_node_address.is_some() && state.target_port.is_some() {
        MigrationPhase::TargetReady
    } else {
        MigrationPhase::PreparingTarget
    }
}
