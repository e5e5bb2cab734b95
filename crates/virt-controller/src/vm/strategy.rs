//! What a run strategy wants, given the requests that are open and the instance that is there.

use kubevirt_types::vm::{RunStrategy, StateChangeAction, StateChangeRequest, VirtualMachineStatus};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, VmiPhase};

use super::requests;

/// What should happen to the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// It is as it should be.
    Nothing,
    /// There should be one.
    Start,
    /// This one should go.
    Stop,
    /// The VM should be of strategy Always, because somebody started a halted one.
    BecomeAlways,
}

/// What a VM wants. May add a start request to `status`: a restart that must not be forgotten
/// when its first half is done.
pub(super) fn want(
    vm: &VirtualMachine,
    status: &mut VirtualMachineStatus,
    vmi: Option<&VirtualMachineInstance>,
) -> Want {
    let start_asked = requests::wants_start(&status.state_change_requests);
    let stop_asked = vmi.is_some_and(|vmi| requests::wants_stop(&status.state_change_requests, vmi));
    let phase = vmi.and_then(|vmi| vmi.status.as_ref()).map(|status| status.phase).unwrap_or_default();
    let strategy = vm.spec.effective_run_strategy();
    match (strategy, vmi) {
        (RunStrategy::Always, None) => Want::Start,
        (RunStrategy::Always, Some(_)) if stop_asked || phase.is_final() => Want::Stop,
        (RunStrategy::Always, Some(_)) => Want::Nothing,

        (RunStrategy::Halted, None) if start_asked => Want::BecomeAlways,
        (RunStrategy::Halted, None) => Want::Nothing,
        (RunStrategy::Halted, Some(_)) => Want::Stop,

        (RunStrategy::Manual, None) if start_asked => Want::Start,
        (RunStrategy::Manual, None) => Want::Nothing,
        (RunStrategy::Manual, Some(_)) if stop_asked || (start_asked && phase.is_final()) => Want::Stop,
        (RunStrategy::Manual, Some(_)) => Want::Nothing,

        // Started once when the strategy is new, then only after a failure or on request.
        (RunStrategy::RerunOnFailure, None)
            if start_asked || status.run_strategy != Some(RunStrategy::RerunOnFailure) =>
        {
            Want::Start
        }
        (RunStrategy::RerunOnFailure, None) => Want::Nothing,
        // Started once when the strategy is new. What has ended stays to be looked at.
        (RunStrategy::Once, None) if start_asked || status.run_strategy != Some(RunStrategy::Once) => {
            Want::Start
        }
        (RunStrategy::Once, Some(_)) if stop_asked => Want::Stop,
        (RunStrategy::Once, None | Some(_)) => Want::Nothing,
        (RunStrategy::RerunOnFailure, Some(vmi)) => {
            let failed_by_itself = phase == VmiPhase::Failed && !vmi.is_deleting();
            if failed_by_itself && status.state_change_requests.is_empty() {
                status.state_change_requests.push(StateChangeRequest {
                    action: StateChangeAction::Start,
                    uid: None,
                    data: None,
                });
            }
            if stop_asked || phase.is_final() { Want::Stop } else { Want::Nothing }
        }
    }
}

/// Notes the strategy in force. RerunOnFailure and Once count only when their instance has been seen, so
/// that a leader that dies between creating it and noting that doesn't lose the start. None is started
/// twice either: an instance has our finalizer, so it doesn't go unseen.
pub(super) fn observe(
    status: &mut VirtualMachineStatus,
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
) {
    let strategy = vm.spec.effective_run_strategy();
    let starts_when_new = match strategy {
        RunStrategy::RerunOnFailure | RunStrategy::Once => true,
        RunStrategy::Always | RunStrategy::Halted | RunStrategy::Manual => false,
    };
    if !starts_when_new || vmi.is_some() {
        status.run_strategy = Some(strategy);
    }
}
