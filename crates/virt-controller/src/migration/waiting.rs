//! From a wish to a target pod: whether the instance can move at all, and whether it is its turn.

use kubevirt_types::condition::ConditionStatus;
use kubevirt_types::migration::MigrationPhase;
use kubevirt_types::{VirtualMachineInstance, VmiPhase};

use super::Round;
use super::turn::{self, Turn};
use crate::decision::Action;
use crate::launcher;
use crate::vmi::pods;

/// What to do while there is no target pod.
pub(super) fn decide(round: &mut Round<'_>) {
    let inputs = round.inputs;
    let migration = &*inputs.migration;
    let vmi = match movable(inputs.vmi.as_deref(), &migration.spec.vmi_name) {
        Ok(vmi) => vmi,
        Err((reason, message)) => return round.fail(reason, &message),
    };
    if let Some(rival) = turn::rival(migration, &inputs.all) {
        let message = format!("migration {} of the same instance isn't over", rival.name());
        return round.fail("AnotherMigration", &message);
    }
    if migration.phase() == MigrationPhase::Unset {
        return round.enter(MigrationPhase::Pending);
    }
    if inputs.target_pod().is_some() {
        // It was made, and whoever made it died before the phase was written.
        return round.enter(MigrationPhase::Scheduling);
    }
    if let Some(due) = turn::not_before(migration, &inputs.all).filter(|due| round.now < *due) {
        round.wait("Backoff", &format!("the last migration failed, the next try is at {due}"));
        return round.decision.look_again_at(due, round.now);
    }
    if let Some(reason) = unready(vmi, inputs) {
        return round.wait("InstanceBusy", reason);
    }
    let node = vmi.status.as_ref().and_then(|status| status.node_name.as_deref());
    match turn::turn(migration, node, &inputs.all, &inputs.limits, round.now) {
        Turn::Now => {}
        Turn::ClusterFull { limit } => {
            return round.wait("ClusterLimit", &format!("{limit} migrations at a time in the cluster"));
        }
        Turn::NodeFull { node, limit } => {
            return round.wait("NodeLimit", &format!("{limit} migrations at a time from node {node}"));
        }
    }
    match launcher::target_pod(vmi, migration, &inputs.launcher) {
        Ok(pod) => {
            // Limits, rivals and the pod itself: a view that lags would make one too many.
            round.decision.confirm = true;
            round.decision.actions.push(Action::CreatePod(Box::new(pod)));
            round.enter(MigrationPhase::Scheduling);
        }
        Err(error) => round.fail("FailedCreate", &error.to_string()),
    }
}

/// The instance, if it is one that can move; or why it isn't.
pub(super) fn movable<'a>(
    vmi: Option<&'a VirtualMachineInstance>,
    name: &str,
) -> Result<&'a VirtualMachineInstance, (&'static str, String)> {
    let Some(vmi) = vmi else {
        return Err(("InstanceNotFound", format!("there is no instance {name}")));
    };
    let empty = Vec::new();
    let (phase, conditions) =
        vmi.status.as_ref().map_or((VmiPhase::Unset, &empty), |status| (status.phase, &status.conditions));
    if vmi.is_deleting() || phase.is_final() {
        return Err(("InstanceEnded", format!("instance {name} has ended, or is about to")));
    }
    if phase != VmiPhase::Running {
        return Err((
            "InstanceNotRunning",
            format!("instance {name} is {phase:?}, only a running one moves"),
        ));
    }
    let refused =
        conditions.iter().find(|c| c.type_ == "LiveMigratable" && c.status == ConditionStatus::False);
    match refused {
        Some(why) => {
            let why = why.message.as_deref().or(why.reason.as_deref()).unwrap_or("nobody says why");
            Err(("NotMigratable", format!("instance {name} can't move: {why}")))
        }
        None => Ok(vmi),
    }
}

/// What of an earlier migration must be over before the next one begins.
fn unready(vmi: &VirtualMachineInstance, inputs: &super::Inputs) -> Option<&'static str> {
    let state = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    if state.is_some_and(|state| !state.is_final()) {
        return Some("an earlier migration of the instance isn't over");
    }
    let all = pods::of_vmi(vmi, &inputs.pods);
    let owner = pods::owner_pod(vmi, &all).map(|pod| &pod.metadata.uid);
    all.iter()
        .any(|pod| {
            Some(&pod.metadata.uid) != owner
                && !pods::is_finished(pod)
                && pod.metadata.deletion_timestamp.is_none()
        })
        .then_some("a launcher of an earlier migration is still there")
}
