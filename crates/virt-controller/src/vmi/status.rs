//! How a VMI's status reads in each phase that virt-controller writes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::condition::{self, Condition};
use kubevirt_types::vmi::{PhaseTransition, VirtualMachineInstanceStatus};
use kubevirt_types::{VirtualMachineInstance, VmiPhase, labels};
use serde_json::Value;

use super::pods;
use crate::merge;

const READY: &str = "Ready";
const SYNCHRONIZED: &str = "Synchronized";
const PROVISIONING: &str = "Provisioning";
const POD_SCHEDULED: &str = "PodScheduled";

/// KubeVirt's word for a node of which nothing is heard.
pub(super) const NODE_UNRESPONSIVE: &str = "NodeUnresponsive";

/// When somebody last said whether the guest is ready, if he wasn't us who hear nothing.
pub(super) fn last_word(status: &VirtualMachineInstanceStatus) -> Option<Timestamp> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY)?;
    let ours = ready.reason.as_deref() == Some(NODE_UNRESPONSIVE);
    ready.last_probe_time.max(ready.last_transition_time).filter(|_| !ours)
}

/// Ready's reason while a guest may run whose node was deleted, and its pod with it.
const NODE_DELETED: &str = "NodeDeleted";

/// The pod went with its node, which is the one that was `deleted` if that is still so: says it, and since when that is
/// known. None where the node has kept its pod's end for itself, or was silent before.
pub(super) fn node_deleted(
    status: &mut VirtualMachineInstanceStatus,
    deleted: Option<&str>,
    now: Timestamp,
) -> Option<Timestamp> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
    match ready.and_then(|ready| ready.reason.as_deref()) {
        Some(NODE_DELETED) => return ready.and_then(|ready| ready.last_probe_time),
        Some(NODE_UNRESPONSIVE) => return None,
        Some(_) | None => {}
    }
    let message = format!("node {} was deleted: the guest has its pod's grace period to end", deleted?);
    not_ready(status, NODE_DELETED, &message, now);
    Some(now)
}

/// Nobody knows whether the guest runs, for this reason. Returns whether that is news.
pub(super) fn unheard(status: &mut VirtualMachineInstanceStatus, why: &str, now: Timestamp) -> bool {
    let before = status.conditions.iter().find(|condition| condition.type_ == READY);
    let known = before.is_some_and(|ready| ready.reason.as_deref() == Some(NODE_UNRESPONSIVE));
    not_ready(status, NODE_UNRESPONSIVE, why, now);
    !known
}

/// Moves to a phase, once.
fn enter(status: &mut VirtualMachineInstanceStatus, phase: VmiPhase, now: Timestamp) {
    if status.phase == phase {
        return;
    }
    status.phase = phase;
    status.phase_transition_timestamps.push(PhaseTransition { phase, phase_transition_timestamp: now });
}

fn not_ready(status: &mut VirtualMachineInstanceStatus, reason: &str, message: &str, now: Timestamp) {
    condition::set(&mut status.conditions, Condition::new(READY, false, reason, message), now);
}

/// Says why what is wanted could not be done.
pub(super) fn not_synchronized(
    status: &mut VirtualMachineInstanceStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    condition::set(&mut status.conditions, Condition::new(SYNCHRONIZED, false, reason, message), now);
}

/// There is no pod yet.
pub(super) fn pending(status: &mut VirtualMachineInstanceStatus, now: Timestamp) {
    enter(status, VmiPhase::Pending, now);
    not_ready(status, "PodNotExists", "the launcher pod doesn't exist yet", now);
}

/// There is a pod, and no launcher that answers.
pub(super) fn scheduling(status: &mut VirtualMachineInstanceStatus, pod: &Pod, now: Timestamp) {
    enter(status, VmiPhase::Scheduling, now);
    not_ready(status, "GuestNotRunning", "the guest isn't running yet", now);
    match pods::condition(pod, POD_SCHEDULED) {
        Some((false, reason, message)) => {
            condition::set(
                &mut status.conditions,
                Condition::new(POD_SCHEDULED, false, reason, message),
                now,
            );
        }
        Some((true, ..)) | None => {
            condition::remove(&mut status.conditions, POD_SCHEDULED);
        }
    }
    let problem = pods::image_problem(pod);
    match problem {
        Some((reason, message)) => not_synchronized(status, reason, message, now),
        None => {
            condition::remove(&mut status.conditions, SYNCHRONIZED);
        }
    }
    let preparing = problem.is_none() && pods::condition(pod, "Initialized").is_some_and(|(done, ..)| !done);
    match pods::node_of(pod) {
        Some(node) if preparing => {
            let message = format!("node {node} fetches the launcher's image and the guest's kernel");
            let wanted = Condition::new(PROVISIONING, true, "PreparingNode", message);
            condition::set(&mut status.conditions, wanted, now);
        }
        Some(_) | None => {
            condition::remove(&mut status.conditions, PROVISIONING);
        }
    }
}

/// The launcher answers: virt-handler of `node` takes over.
pub(super) fn scheduled(status: &mut VirtualMachineInstanceStatus, pod: &Pod, node: &str, now: Timestamp) {
    scheduling(status, pod, now);
    condition::remove(&mut status.conditions, PROVISIONING);
    enter(status, VmiPhase::Scheduled, now);
    status.node_name = Some(node.to_owned());
    status.qos_class = pod.status.as_ref().and_then(|s| s.qos_class.clone());
    status.runtime_user = Some(labels::LAUNCHER_UID.unsigned_abs());
}

/// Which launcher pods there are, and what they run.
pub(super) fn observe_pods(
    status: &mut VirtualMachineInstanceStatus,
    vmi: &VirtualMachineInstance,
    pods: &[&Pod],
) {
    let alive = || pods.iter().filter(|pod| !pods::is_finished(pod));
    status.active_pods =
        alive().filter_map(|pod| Some((pod.metadata.uid.clone()?, pods::node_of(pod)?.to_owned()))).collect();
    let owner = pods::owner_pod(vmi, pods).filter(|pod| !pods::is_finished(pod));
    if let Some(image) = owner.and_then(pods::launcher_image) {
        status.launcher_container_image_version = Some(image);
    }
}

/// The instance has ended.
pub(super) fn end(
    status: &mut VirtualMachineInstanceStatus,
    phase: VmiPhase,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    enter(status, phase, now);
    status.reason = Some(reason.to_owned());
    condition::remove(&mut status.conditions, PROVISIONING);
    condition::remove(&mut status.conditions, POD_SCHEDULED);
    let message = if message.is_empty() { "the guest isn't running any more" } else { message };
    not_ready(status, reason, message, now);
}

/// The status patch that tells of a write that failed; none when it stands there already.
pub fn on_failure(
    vmi: &VirtualMachineInstance,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Value> {
    let mut status = vmi.status.clone().unwrap_or_default();
    not_synchronized(&mut status, reason, message, now);
    merge::status_patch(vmi.status.as_ref(), &status)
}
