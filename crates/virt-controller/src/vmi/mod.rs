//! The VirtualMachineInstance controller: an instance gets its launcher pod, and is handed
//! over to virt-handler when that answers; when it is deleted, its pod goes before it.
//!
//! Pure: [`decide`] sees one instance, its pods and the time. From `Scheduled` on the status
//! belongs to virt-handler; written here are then only which pods there are, and the end of
//! an instance whose pod has certainly ended while no virt-handler said so. Of a migration it
//! writes the wish to abort it and that its target is gone, and cleans up behind it.

mod deletion;
mod evacuation;
mod moves;
pub mod node;
pub mod pods;
mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, VmiPhase, labels};
use serde_json::json;

use crate::decision::{Action, Decision, News};
use crate::launcher::{self, LauncherConfig};
use crate::{merge, owner};
use node::{Health, NodeSeen};
use pods::Launcher;
pub use status::on_failure;

/// How long virt-handler has to say how a guest ended, after its pod has.
const REPORT_GRACE: Duration = Duration::from_secs(10);

/// Whether the VM that made an instance is still there to look after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// No VM controls the instance.
    None,
    /// The VM that controls it exists.
    Alive,
    /// The VM that controls it doesn't exist any more.
    Gone,
}

/// All that a decision about an instance depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The instance.
    pub vmi: Arc<VirtualMachineInstance>,
    /// Pods that may be its launchers.
    pub pods: Vec<Arc<Pod>>,
    /// Its VM.
    pub owner: Owner,
    /// Its migrations, those that are over too.
    pub migrations: Vec<Arc<VirtualMachineInstanceMigration>>,
    /// The node that has its guest.
    pub node: NodeSeen,
    /// How launcher pods are made.
    pub launcher: LauncherConfig,
}

/// What to do about an instance.
pub fn decide(inputs: &Inputs, now: Timestamp) -> Decision {
    let vmi = &*inputs.vmi;
    let pods = pods::of_vmi(vmi, &inputs.pods);
    if vmi.is_deleting() {
        return deletion::decide(inputs, &pods, now);
    }
    let mut status = vmi.status.clone().unwrap_or_default();
    let mut decision = Decision::default();
    match status.phase {
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling => {
            before_handover(inputs, &pods, &mut status, &mut decision, now);
        }
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => {
            after_handover(inputs, &pods, &mut status, &mut decision, now);
            let news = silence(inputs, &mut status, &mut decision, now);
            write_status(vmi, &status, &mut decision);
            decision.actions.extend(news);
            if !status.phase.is_final() {
                moves::clean_up(inputs, &pods, &mut decision, now);
                evacuation::decide(inputs, &mut decision);
            }
        }
        VmiPhase::Succeeded | VmiPhase::Failed => {
            status::observe_pods(&mut status, vmi, &pods);
            moves::observe(inputs, &pods, &mut status, &mut decision, now);
            write_status(vmi, &status, &mut decision);
            decision.actions.extend(delete_pods(pods.iter().copied().filter(|pod| !pods::is_finished(pod))));
        }
    }
    decision
}

/// From nothing to a launcher that answers.
fn before_handover(
    inputs: &Inputs,
    pods: &[&Pod],
    status: &mut VirtualMachineInstanceStatus,
    decision: &mut Decision,
    now: Timestamp,
) {
    let vmi = &*inputs.vmi;
    // No pod without the finalizer that makes us clean up after it.
    if let Some(patch) = owner::add_finalizer(&vmi.metadata, labels::FINALIZER_VMI) {
        decision.actions.push(Action::Patch(patch));
    }
    match pods::current(vmi, pods) {
        Launcher::Missing if status.phase == VmiPhase::Scheduling => {
            // It was there: somebody deleted it. A cache that lags would look the same.
            decision.confirm = true;
            status::end(status, VmiPhase::Failed, "LauncherPodGone", "the launcher pod was deleted", now);
            write_status(vmi, status, decision);
        }
        Launcher::Missing => {
            status::pending(status, now);
            match launcher::launcher_pod(vmi, &inputs.launcher) {
                Ok(pod) => {
                    decision.confirm = true;
                    write_status(vmi, status, decision);
                    decision.actions.push(Action::CreatePod(Box::new(pod)));
                }
                Err(error) => {
                    status::not_synchronized(status, "FailedCreate", &error.to_string(), now);
                    write_status(vmi, status, decision);
                }
            }
        }
        Launcher::Preparing(pod) => {
            status::scheduling(status, pod, now);
            write_status(vmi, status, decision);
        }
        Launcher::Ready(pod, node) => {
            // The label first: virt-handler watches by label and acts on the phase.
            if vmi.metadata.labels.as_ref().and_then(|l| l.get(labels::NODE_NAME)).map(String::as_str)
                != Some(node)
            {
                let patch = json!({ "metadata": { "labels": { labels::NODE_NAME: node } } });
                decision.actions.push(Action::Patch(patch));
            }
            status::scheduled(status, pod, node, now);
            status::observe_pods(status, vmi, pods);
            write_status(vmi, status, decision);
        }
        Launcher::Finished { pod, .. } => {
            status::end(status, VmiPhase::Failed, "LauncherPodFailed", &pods::failure(pod), now);
            write_status(vmi, status, decision);
        }
    }
}

/// While virt-handler owns the status: only what it can't see.
fn after_handover(
    inputs: &Inputs,
    pods: &[&Pod],
    status: &mut VirtualMachineInstanceStatus,
    decision: &mut Decision,
    now: Timestamp,
) {
    let vmi = &*inputs.vmi;
    status::observe_pods(status, vmi, pods);
    let lingers = moves::observe(inputs, pods, status, decision, now);
    let lingers = lingers.filter(|_| pods::may_have_left(vmi, pods));
    match pods::current(vmi, pods) {
        // Nobody removes a pod that may run but its node's kubelet, who ended it; the garbage collector, whose node
        // is gone or out of service; and a user who forces it, and says with that that it doesn't run.
        Launcher::Missing => {
            decision.confirm = true;
            if let Some(due) = last_grace(inputs, status, now).max(lingers) {
                return decision.look_again_at(due, now);
            }
            match inputs.node.took_its_pods(status::last_word(status), now) {
                Some(why) => {
                    let message = format!("the launcher pod is gone: {why}");
                    status::end(status, VmiPhase::Failed, status::NODE_UNRESPONSIVE, &message, now);
                }
                None => {
                    let message = "the launcher pod is gone";
                    status::end(status, VmiPhase::Failed, "LauncherPodGone", message, now);
                }
            }
        }
        Launcher::Finished { pod, success, at } => {
            let due = at.map_or(now, |at| at + REPORT_GRACE).max(lingers.unwrap_or(now));
            // Two pods are judged together: one that a cache doesn't show may live.
            decision.confirm |= vmi.status.as_ref().is_some_and(|s| s.migration_state.is_some());
            if now < due {
                decision.look_again_at(due, now);
            } else if success {
                status::end(status, VmiPhase::Succeeded, "LauncherPodSucceeded", "", now);
            } else {
                status::end(status, VmiPhase::Failed, "LauncherPodFailed", &pods::failure(pod), now);
            }
        }
        Launcher::Preparing(_) | Launcher::Ready(..) => {}
    }
}

/// Until when a guest may run whose pod was removed with its node.
///
/// Somebody may have deleted the node of a machine that is well: its kubelet sees the pod go, and ends what runs there with the
/// pod's grace. Where the node was silent before, no kubelet is known to see anything, and waiting wouldn't help.
fn last_grace(
    inputs: &Inputs,
    status: &mut VirtualMachineInstanceStatus,
    now: Timestamp,
) -> Option<Timestamp> {
    let deleted = match &inputs.node {
        NodeSeen::Gone(name) => Some(name.as_str()),
        NodeSeen::None | NodeSeen::Here(_) => None,
    };
    let since = status::node_deleted(status, deleted, now)?;
    let due = since + pod_grace(&inputs.vmi) + REPORT_GRACE;
    (now < due).then_some(due)
}

/// What a kubelet gives a launcher pod to end.
fn pod_grace(vmi: &VirtualMachineInstance) -> Duration {
    // A day is more than any guest's grace, and can't overflow.
    Duration::from_secs(launcher::pod_grace_seconds(vmi).clamp(0, 86_400).unsigned_abs())
}

/// Says of an instance that hasn't ended that nobody hears of its guest. The one who is heard again takes it back.
fn silence(
    inputs: &Inputs,
    status: &mut VirtualMachineInstanceStatus,
    decision: &mut Decision,
    now: Timestamp,
) -> Option<Action> {
    let why = match inputs.node.health(status::last_word(status), now) {
        Health::Unheard(why) if !status.phase.is_final() => why,
        Health::Heard { again: Some(due) } if !status.phase.is_final() => {
            decision.look_again_at(due, now);
            return None;
        }
        Health::Unheard(_) | Health::Heard { .. } => return None,
    };
    if !status::unheard(status, &why, now) {
        return None;
    }
    // A node that a cache doesn't show yet would look the same.
    decision.confirm = true;
    let note = format!("{why}: whether the guest runs is not known, and no other is started");
    let about = inputs.vmi.object_ref(&());
    Some(Action::Tell(Box::new(News { about, warning: true, reason: status::NODE_UNRESPONSIVE, note })))
}

fn write_status(
    vmi: &VirtualMachineInstance,
    wanted: &VirtualMachineInstanceStatus,
    decision: &mut Decision,
) {
    if let Some(patch) = merge::status_patch(vmi.status.as_ref(), wanted) {
        decision.actions.push(Action::PatchStatus(patch));
    }
}

/// Deletes pods that nobody has asked to delete yet.
fn delete_pods<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<Action> {
    pods.filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| Action::DeletePod {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod tests;
