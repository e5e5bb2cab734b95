//! What an instance owes its migrations: the wish to abort, the word that a target is gone, labels
//! that follow the guest, and the removal of launchers that nobody needs any more.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::migration::{MigrationPhase, MigrationState};
use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, labels};
use serde_json::{Map, Value, json};

use super::pods::{self, Launcher};
use super::{Inputs, REPORT_GRACE, delete_pods, pod_grace};
use crate::decision::{Action, Decision};

/// For the source's virt-handler, which watches by label `nodeName`, to say how long the guest stood.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the virt-handlers may take until the target listens: a handler that is replaced is away for less.
const PREPARED: Duration = Duration::from_secs(5 * 60);
/// How long after its end a migration's source and its label may stay.
const AFTERMATH: Duration = Duration::from_secs(60);

/// Whether a migration isn't over, as its own status says.
pub(super) fn is_open(migration: &VirtualMachineInstanceMigration) -> bool {
    !migration.phase().is_final()
}

/// Brings the state of a migration that isn't final up to what is seen, and forgets a drain that
/// the guest has left behind. Returns until when something may run at a target whose pod is gone.
pub(super) fn observe(
    inputs: &Inputs,
    pods: &[&Pod],
    status: &mut VirtualMachineInstanceStatus,
    decision: &mut Decision,
    now: Timestamp,
) -> Option<Timestamp> {
    if status.evacuation_node_name.is_some() && status.evacuation_node_name != status.node_name {
        status.evacuation_node_name = None;
    }
    let over = status.phase.is_final();
    let state = status.migration_state.as_mut().filter(|state| !state.is_final())?;
    if !state.abort_requested && is_unwanted(inputs, state) {
        // A cache that doesn't show the migration yet would look the same.
        decision.confirm = true;
        state.abort_requested = true;
    }
    let target = pods::look_for(pods, &state.target_pod);
    let waits = matches!(target, Launcher::Preparing(_) | Launcher::Ready(..));
    if let Some(due) = orphaned(pods, state, now).filter(|_| waits) {
        if now < due {
            decision.look_again_at(due, now);
        } else if !may_have_begun(state) {
            decision.confirm = true;
            fail(state, format!("the source has ended before {} was ready", state.target_node), now);
            return None;
        } else if !state.abort_requested {
            // A cache that doesn't show the source yet would look the same.
            decision.confirm = true;
            state.abort_requested = true;
        }
    }
    if let Some(due) = deadline(inputs, state) {
        if now < due {
            decision.look_again_at(due, now);
        } else {
            decision.confirm = true;
            let (source, target, minutes) = (&state.source_node, &state.target_node, PREPARED.as_secs() / 60);
            fail(
                state,
                format!("the virt-handlers of {source} and {target} didn't prepare it in {minutes} min"),
                now,
            );
            return None;
        }
    }
    if !matches!(target, Launcher::Missing) {
        state.target_pod_missing_timestamp = None;
    }
    let ended = match target {
        Launcher::Missing => {
            // Of an instance that has ended no guest is left.
            if let Some(due) = (!over).then(|| last_grace(&inputs.vmi, state, now)).flatten() {
                // A cache that doesn't show the pod yet would look the same.
                decision.confirm = true;
                decision.look_again_at(due, now);
                return Some(due);
            }
            Some((now, "the target pod is gone".to_owned()))
        }
        Launcher::Finished { pod, at, .. } => {
            Some((at.unwrap_or(now), format!("the target pod has ended: {}", pods::failure(pod))))
        }
        Launcher::Preparing(_) | Launcher::Ready(..) => None,
    };
    let (at, why) = ended?;
    decision.confirm = true;
    // A source that lives may hold a guest that stands until this is said. Where both have ended,
    // the target's virt-handler has a while to say that the guest ran there.
    let source_ended =
        matches!(pods::look_for(pods, &state.source_pod), Launcher::Missing | Launcher::Finished { .. });
    if !source_ended && pods::has_shut_down(target) {
        // The guest ran at the target and has ended: the source mustn't let it run again.
        return None;
    }
    let due = if source_ended { at + REPORT_GRACE } else { now };
    if matches!(target, Launcher::Finished { .. }) && now < due {
        decision.look_again_at(due, now);
        return None;
    }
    fail(state, why.trim_end_matches([' ', ':']).to_owned(), now);
    None
}

fn fail(state: &mut MigrationState, why: String, now: Timestamp) {
    state.failed = true;
    state.failure_reason = Some(why);
    state.end_timestamp = Some(now);
}

/// Whether a source may have been told to begin: without the target's address none was.
fn may_have_begun(state: &MigrationState) -> bool {
    state.start_timestamp.is_some() || state.target_node_address.is_some()
}

/// From when on a migration whose source has ended is nobody's, if it hasn't said that its guest has moved.
///
/// A target that has been waiting for it would wait on. Only its launcher knows whether the guest has come after all,
/// so where it may have, the target is asked to give up (`abortRequested`), and refuses if it has the guest.
fn orphaned(pods: &[&Pod], state: &MigrationState, now: Timestamp) -> Option<Timestamp> {
    match pods::look_for(pods, &state.source_pod) {
        source if pods::has_migrated(source) => None,
        Launcher::Finished { at, .. } => Some(at.unwrap_or(now) + REPORT_GRACE),
        Launcher::Missing => may_have_begun(state).then_some(now),
        Launcher::Preparing(_) | Launcher::Ready(..) => None,
    }
}

/// Until when a guest may run at a target whose pod is gone, and of which nobody saw the containers end.
///
/// The pod may have been removed with the node's object, or by force, from a machine that is well: its kubelet sees that,
/// and ends what runs there with the pod's grace. No source lets its guest run on before. Where none can have been told to
/// begin, there is nothing to wait for.
pub(super) fn last_grace(
    vmi: &VirtualMachineInstance,
    state: &mut MigrationState,
    now: Timestamp,
) -> Option<Timestamp> {
    if !may_have_begun(state) {
        return None;
    }
    let since = *state.target_pod_missing_timestamp.get_or_insert(now);
    let due = since + pod_grace(vmi) + REPORT_GRACE;
    (now < due).then_some(due)
}

/// Until when a target has to listen, as long as none does.
///
/// Without a target's address no source was told to begin, and none can be: the address is written on the
/// resourceVersion that was read, as `failed` is, so only one of them is. With an address the source's launcher
/// may have begun, and only the launchers know how that ends.
fn deadline(inputs: &Inputs, state: &MigrationState) -> Option<Timestamp> {
    if may_have_begun(state) {
        return None;
    }
    let mine = inputs.migrations.iter().find(|migration| migration.uid() == state.migration_uid)?;
    let reached = &mine.status.as_ref()?.phase_transition_timestamps;
    let begun = reached.iter().rev().find(|t| t.phase == MigrationPhase::PreparingTarget)?;
    Some(begun.phase_transition_timestamp + PREPARED)
}

/// Whether nobody wants this migration any more: the instance goes, or the migration does.
fn is_unwanted(inputs: &Inputs, state: &MigrationState) -> bool {
    let mine = inputs.migrations.iter().find(|migration| migration.uid() == state.migration_uid);
    inputs.vmi.is_deleting() || mine.is_none_or(|migration| migration.is_deleting())
}

/// Labels and launchers of migrations that are over.
pub(super) fn clean_up(inputs: &Inputs, pods: &[&Pod], decision: &mut Decision, now: Timestamp) {
    let vmi = &*inputs.vmi;
    let state = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    if let Some(state) = state.filter(|state| !state.is_final()) {
        decision.actions.extend(relabel(vmi, Goal::Node(&state.target_node), false));
        return;
    }
    let over = state.and_then(|state| state.end_timestamp).map(|end| end + AFTERMATH);
    let open = inputs.migrations.iter().any(|migration| is_open(migration));
    let due = over.filter(|due| now < *due);
    let target_label = label(vmi, labels::MIGRATION_TARGET_NODE).is_some();
    let forget = target_label && !open && due.is_none();
    // A migration that a cache doesn't show yet may have put it there.
    decision.confirm |= forget;
    let silent = state.filter(|state| state.completed && state.downtime_milliseconds.is_none());
    let last_words = silent.and_then(|state| state.end_timestamp).map(|end| end + LAST_WORDS);
    let listen = last_words.filter(|due| now < *due);
    if let Some(due) = listen {
        decision.look_again_at(due, now);
    }
    decision.actions.extend(relabel(vmi, if forget { Goal::None } else { Goal::AsItIs }, listen.is_some()));
    let left_over: Vec<&Pod> = strays(inputs, pods).collect();
    if let Some(due) = due.filter(|_| target_label || !left_over.is_empty()) {
        decision.look_again_at(due, now);
    }
    // The source of a migration that is completed ends by itself; a failed one's target doesn't.
    let patient = state.is_some_and(|state| state.completed) && due.is_some();
    if !patient {
        let deletions = delete_pods(left_over.into_iter());
        decision.confirm |= !deletions.is_empty();
        decision.actions.extend(deletions);
    }
}

/// Launchers that came with a migration, or were left by one, and have nothing to do any more.
fn strays<'a>(inputs: &Inputs, pods: &[&'a Pod]) -> impl Iterator<Item = &'a Pod> {
    let vmi = &*inputs.vmi;
    let owner = pods::owner_pod(vmi, pods).and_then(|pod| pod.metadata.uid.clone());
    let state = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    let source = state.filter(|state| state.completed).map(|state| state.source_pod.clone());
    let open: Vec<String> =
        inputs.migrations.iter().filter(|m| is_open(m)).map(|m| m.uid().to_owned()).collect();
    pods.iter().copied().filter(move |pod| {
        let came = pods::migration_of(pod).is_some_and(|uid| !open.iter().any(|open| open == uid));
        let left = source.is_some() && pod.metadata.name == source;
        (came || left) && pod.metadata.uid != owner && !pods::is_finished(pod)
    })
}

/// Where a guest goes.
enum Goal<'a> {
    /// To this node.
    Node(&'a str),
    /// Nowhere.
    None,
    /// Somebody else says.
    AsItIs,
}

/// The labels that say where the guest is, which may have to be `kept` as it was for a moment, and where it goes.
fn relabel(vmi: &VirtualMachineInstance, goal: Goal<'_>, kept: bool) -> Option<Action> {
    let mut wanted = Map::new();
    let node = vmi.status.as_ref().and_then(|status| status.node_name.as_deref());
    if !kept && node.is_some() && label(vmi, labels::NODE_NAME) != node {
        wanted.insert(labels::NODE_NAME.to_owned(), json!(node));
    }
    let target = label(vmi, labels::MIGRATION_TARGET_NODE);
    match goal {
        Goal::Node(node) if target != Some(node) => {
            wanted.insert(labels::MIGRATION_TARGET_NODE.to_owned(), json!(node));
        }
        Goal::None if target.is_some() => {
            wanted.insert(labels::MIGRATION_TARGET_NODE.to_owned(), Value::Null);
        }
        Goal::Node(_) | Goal::None | Goal::AsItIs => {}
    }
    (!wanted.is_empty()).then(|| Action::Patch(json!({ "metadata": { "labels": wanted } })))
}

fn label<'a>(vmi: &'a VirtualMachineInstance, name: &str) -> Option<&'a str> {
    vmi.metadata.labels.as_ref()?.get(name).map(String::as_str)
}
