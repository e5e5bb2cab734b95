//! From a target pod to a launcher that answers in it, and to the instance's status that says so.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::migration::{MigrationPhase, MigrationState};
use kubevirt_types::{VirtualMachineInstance, labels};
use serde_json::json;

use super::waiting::movable;
use super::{Round, status};
use crate::decision::Action;
use crate::vmi::pods::{self, Launcher};
use crate::{merge, owner};

/// How long a target pod may fit on no node.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long a target pod may take until its launcher answers.
const READY_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What to do while there is a target pod that the instance doesn't know of.
pub(super) fn decide(round: &mut Round<'_>) {
    let inputs = round.inputs;
    let vmi = match movable(inputs.vmi.as_deref(), &inputs.migration.spec.vmi_name) {
        Ok(vmi) => vmi,
        Err((reason, message)) => return round.fail(reason, &message),
    };
    let Some(pod) = inputs.target_pod() else {
        return round.fail("TargetPodGone", "the target pod was deleted");
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return round.fail("TargetPodGone", "the target pod is being deleted");
    }
    match pods::look(pod) {
        Launcher::Missing => {}
        Launcher::Finished { pod, .. } => {
            let message = format!("the target pod has ended: {}", pods::failure(pod));
            round.fail("TargetPodFailed", &message);
        }
        Launcher::Preparing(pod) => prepare(round, pod),
        Launcher::Ready(pod, node) => match round.status.phase {
            MigrationPhase::Scheduling => round.enter(MigrationPhase::Scheduled),
            MigrationPhase::Unset
            | MigrationPhase::Pending
            | MigrationPhase::Scheduled
            | MigrationPhase::PreparingTarget
            | MigrationPhase::TargetReady
            | MigrationPhase::Running
            | MigrationPhase::Succeeded
            | MigrationPhase::Failed => introduce(round, vmi, pod, node),
        },
    }
}

/// The launcher doesn't answer yet.
fn prepare(round: &mut Round<'_>, pod: &Pod) {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(round.now, |time| time.0);
    let unschedulable = pods::condition(pod, "PodScheduled").filter(|(scheduled, ..)| !scheduled);
    let (limit, reason, message) = match (unschedulable, pods::image_problem(pod)) {
        (Some((_, reason, message)), _) => (UNSCHEDULABLE_LIMIT, reason, message),
        (None, Some((reason, message))) => (READY_LIMIT, reason, message),
        (None, None) => (READY_LIMIT, "", ""),
    };
    let due: Timestamp = made + limit;
    if round.now >= due {
        let minutes = limit.as_secs() / 60;
        let message = format!("the target pod wasn't ready in {minutes} min: {reason} {message}");
        return round.fail("TargetPodTimeout", message.trim_end_matches([' ', ':']));
    }
    match reason {
        "" => status::go_on(&mut round.status),
        reason => round.wait(reason, message),
    }
    round.decision.look_again_at(due, round.now);
}

/// Tells the virt-handlers: first the label by which the target's finds the instance, then, in
/// another round, the state on which both act.
fn introduce(round: &mut Round<'_>, vmi: &VirtualMachineInstance, pod: &Pod, node: &str) {
    let all = pods::of_vmi(vmi, &round.inputs.pods);
    let source_node = vmi.status.as_ref().and_then(|status| status.node_name.clone()).unwrap_or_default();
    let source_pod = pods::owner_pod(vmi, &all).filter(|pod| !pods::is_finished(pod));
    let Some(source_pod) = source_pod.and_then(|pod| pod.metadata.name.clone()) else {
        return round.fail("SourcePodGone", "the launcher that has the guest is gone");
    };
    if source_node == node {
        return round.fail("SameNode", "the target pod is on the node that has the guest already");
    }
    let earlier = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    if earlier.is_some_and(|earlier| !earlier.is_final()) {
        // Its launchers know of each other: nobody takes their word away.
        return round.fail("AnotherMigration", "another migration of the same instance isn't over");
    }
    round.decision.confirm = true;
    let name = vmi.name().to_owned();
    let labelled = vmi.metadata.labels.as_ref().and_then(|all| all.get(labels::MIGRATION_TARGET_NODE));
    if labelled.map(String::as_str) != Some(node) {
        let patch = json!({ "metadata": { "labels": { labels::MIGRATION_TARGET_NODE: node } } });
        round.decision.actions.push(Action::PatchVmi { name, patch: owner::guarded(patch, &vmi.metadata) });
        return;
    }
    let mut wanted = vmi.status.clone().unwrap_or_default();
    wanted.migration_state = Some(MigrationState {
        migration_uid: round.inputs.migration.uid().to_owned(),
        source_node,
        source_pod,
        target_node: node.to_owned(),
        target_pod: pod.metadata.name.clone().unwrap_or_default(),
        migration_configuration: Some(round.inputs.limits.clone()),
        ..MigrationState::default()
    });
    if let Some(patch) = merge::status_patch(vmi.status.as_ref(), &wanted) {
        let patch = owner::guarded(patch, &vmi.metadata);
        round.decision.actions.push(Action::PatchVmiStatus { name, patch });
    }
}
