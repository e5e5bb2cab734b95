//! What a VM's status says of its instance, for people and for programs.

use jiff::Timestamp;
use kubevirt_types::condition::{self, Condition, ConditionStatus};
use kubevirt_types::vm::{PrintableStatus, RunStrategy, VirtualMachineStatus};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, VmiPhase};
use serde_json::Value;

use super::start_failure::START_FAILED;
use super::{Instance, instance, requests};
use crate::merge;

const READY: &str = "Ready";
const FAILURE: &str = "Failure";
/// Conditions that are the VM's own; all others are the instance's, mirrored.
const OWN: [&str; 2] = [READY, FAILURE];

/// Brings the status up to what is seen.
pub(super) fn observe(
    status: &mut VirtualMachineStatus,
    vm: &VirtualMachine,
    instance: Instance<'_>,
    now: Timestamp,
) {
    let vmi = instance.own();
    mirror_conditions(status, vmi, now);
    clear_failure(status, instance);
    status.created = Some(vmi.is_some());
    status.ready = Some(condition::is_true(&status.conditions, READY));
    status.desired_generation = vm.metadata.generation;
    status.observed_generation = match vmi {
        Some(vmi) => instance::generation(vmi).or(status.observed_generation),
        None => vm.metadata.generation,
    };
    status.printable_status = Some(printable(vm, status, vmi));
}

fn mirror_conditions(
    status: &mut VirtualMachineStatus,
    vmi: Option<&VirtualMachineInstance>,
    now: Timestamp,
) {
    let theirs = vmi.and_then(|vmi| vmi.status.as_ref()).map_or(&[][..], |status| &status.conditions);
    let ready = match (vmi, theirs.iter().find(|c| c.type_ == READY)) {
        (None, _) => Condition::new(READY, false, "VMINotExists", "VMI does not exist"),
        (Some(_), Some(ready)) => ready.clone(),
        (Some(_), None) => Condition::new(READY, false, "GuestNotRunning", "the guest isn't running yet"),
    };
    condition::set(&mut status.conditions, ready, now);
    status
        .conditions
        .retain(|c| OWN.contains(&c.type_.as_str()) || theirs.iter().any(|t| t.type_ == c.type_));
    for condition in theirs.iter().filter(|c| !OWN.contains(&c.type_.as_str())) {
        condition::set(&mut status.conditions, condition.clone(), now);
    }
}

/// Takes a failure away that is over: a create's when the instance is there, a delete's when it
/// isn't, and that of starts when they are no longer counted.
fn clear_failure(status: &mut VirtualMachineStatus, instance: Instance<'_>) {
    let reason = status.conditions.iter().find(|c| c.type_ == FAILURE).and_then(|c| c.reason.as_deref());
    let over = match (reason, instance) {
        (Some(START_FAILED), _) => status.start_failure.is_none(),
        (Some("FailedDelete"), Instance::Own(vmi)) => vmi.is_deleting(),
        (Some("FailedDelete"), Instance::Missing | Instance::Foreign) => true,
        (Some(_), Instance::Own(_)) => true,
        (Some(_), Instance::Missing | Instance::Foreign) => false,
        (None, _) => false,
    };
    if over {
        condition::remove(&mut status.conditions, FAILURE);
    }
}

/// Says why the last write failed.
pub(super) fn fail(status: &mut VirtualMachineStatus, reason: &str, message: &str, now: Timestamp) {
    condition::set(&mut status.conditions, Condition::new(FAILURE, true, reason, message), now);
}

/// The status patch that tells of a write that failed; none when it stands there already.
pub fn on_failure(vm: &VirtualMachine, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let mut status = vm.status.clone().unwrap_or_default();
    fail(&mut status, reason, message, now);
    merge::status_patch(vm.status.as_ref(), &status)
}

/// The one word for people; the first that fits, in KubeVirt's order.
fn printable(
    vm: &VirtualMachine,
    status: &VirtualMachineStatus,
    vmi: Option<&VirtualMachineInstance>,
) -> PrintableStatus {
    if vm.is_deleting() {
        return PrintableStatus::Terminating;
    }
    let Some(vmi) = vmi else { return without_instance(vm, status) };
    let progress = vmi.status.clone().unwrap_or_default();
    let stopping = vmi.is_deleting() || requests::wants_stop(&status.state_change_requests, vmi);
    if stopping && !progress.phase.is_final() {
        return PrintableStatus::Stopping;
    }
    let find = |type_: &str| progress.conditions.iter().find(|c| c.type_ == type_);
    let is_false = |type_: &str, reason: &str| {
        find(type_).is_some_and(|c| c.status == ConditionStatus::False && c.reason.as_deref() == Some(reason))
    };
    match progress.phase {
        VmiPhase::Succeeded | VmiPhase::Failed => without_instance(vm, status),
        VmiPhase::Running if progress.migration_state.as_ref().is_some_and(|state| !state.is_final()) => {
            PrintableStatus::Migrating
        }
        VmiPhase::Running if condition::is_true(&progress.conditions, "Paused") => PrintableStatus::Paused,
        VmiPhase::Running => PrintableStatus::Running,
        VmiPhase::Unknown => PrintableStatus::Unknown,
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling | VmiPhase::Scheduled => {
            if is_false("PodScheduled", UNSCHEDULABLE) {
                PrintableStatus::ErrorUnschedulable
            } else if condition::is_true(&progress.conditions, "Provisioning") {
                PrintableStatus::Provisioning
            } else if is_false("Synchronized", "ErrImagePull") {
                PrintableStatus::ErrImagePull
            } else if is_false("Synchronized", "ImagePullBackOff") {
                PrintableStatus::ImagePullBackOff
            } else {
                PrintableStatus::Starting
            }
        }
    }
}

/// The scheduler's word for a pod that fits nowhere.
const UNSCHEDULABLE: &str = "Unschedulable";

/// The word for a VM that has no instance, or one that has ended.
fn without_instance(vm: &VirtualMachine, status: &VirtualMachineStatus) -> PrintableStatus {
    let starts_by_itself = match vm.spec.effective_run_strategy() {
        RunStrategy::Always => true,
        RunStrategy::RerunOnFailure => requests::wants_start(&status.state_change_requests),
        RunStrategy::Once => status.run_strategy != Some(RunStrategy::Once),
        RunStrategy::Halted | RunStrategy::Manual => false,
    };
    if starts_by_itself && status.start_failure.is_some() {
        PrintableStatus::CrashLoopBackOff
    } else if starts_by_itself || requests::wants_start(&status.state_change_requests) {
        PrintableStatus::Starting
    } else {
        PrintableStatus::Stopped
    }
}
