//! What a replica set's status says of its instances.

use jiff::Timestamp;
use kube::core::Selector;
use kubevirt_types::condition::{self, Condition};
use kubevirt_types::vm::VirtualMachineInstanceReplicaSetStatus;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet};
use serde_json::Value;

use super::is_ready;
use crate::merge;

const PAUSED: &str = "ReplicaPaused";
const FAILURE: &str = "ReplicaFailure";

/// Brings the status up to what is seen.
pub(super) fn observe(
    status: &mut VirtualMachineInstanceReplicaSetStatus,
    set: &VirtualMachineInstanceReplicaSet,
    active: &[&VirtualMachineInstance],
    selector: &Selector,
    now: Timestamp,
) {
    let count = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX));
    status.replicas = count(active.len());
    status.ready_replicas = count(active.iter().filter(|vmi| is_ready(vmi)).count());
    status.label_selector = Some(selector.to_string());
    if set.spec.paused == Some(true) {
        let wanted = Condition::new(PAUSED, true, "Paused", "the replica set is paused");
        condition::set(&mut status.conditions, wanted, now);
    } else {
        condition::remove(&mut status.conditions, PAUSED);
    }
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() == wanted {
        condition::remove(&mut status.conditions, FAILURE);
    }
}

/// Says why instances are missing, or too many.
pub(super) fn fail(
    status: &mut VirtualMachineInstanceReplicaSetStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    condition::set(&mut status.conditions, Condition::new(FAILURE, true, reason, message), now);
}

/// The status patch that tells of a write that failed; none when it stands there already.
pub fn on_failure(
    set: &VirtualMachineInstanceReplicaSet,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Value> {
    let mut status = set.status.clone().unwrap_or_default();
    fail(&mut status, reason, message, now);
    merge::status_patch(set.status.as_ref(), &status)
}
