//! Start and stop requests of a VM: which is being carried out, and when it is done.
//!
//! Only the first counts; the next is looked at when it is done.

use kubevirt_types::VirtualMachineInstance;
use kubevirt_types::vm::{START_PAUSED, StateChangeAction, StateChangeRequest};
use kubevirt_types::vmi::StartStrategy;

/// Whether a start is asked for now.
pub(super) fn wants_start(requests: &[StateChangeRequest]) -> bool {
    requests.first().is_some_and(|first| first.action == StateChangeAction::Start)
}

/// How the instance begins that is started now.
pub(super) fn start_strategy(requests: &[StateChangeRequest]) -> Option<StartStrategy> {
    let first = requests.first().filter(|first| first.action == StateChangeAction::Start)?;
    let paused = first.data.as_ref()?.get(START_PAUSED)?;
    (paused == "true").then_some(StartStrategy::Paused)
}

/// Whether the stop of this very instance is asked for now.
pub(super) fn wants_stop(requests: &[StateChangeRequest], vmi: &VirtualMachineInstance) -> bool {
    requests.first().is_some_and(|first| {
        first.action == StateChangeAction::Stop && first.uid.as_deref().is_none_or(|uid| uid == vmi.uid())
    })
}

/// Takes away what is done. Returns whether anything was.
pub(super) fn consume(requests: &mut Vec<StateChangeRequest>, vmi: Option<&VirtualMachineInstance>) -> bool {
    let before = requests.len();
    while requests.first().is_some_and(|first| is_done(first, vmi)) {
        requests.remove(0);
    }
    requests.len() != before
}

fn is_done(request: &StateChangeRequest, vmi: Option<&VirtualMachineInstance>) -> bool {
    match (request.action, vmi) {
        (StateChangeAction::Stop, None) => true,
        (StateChangeAction::Stop, Some(vmi)) => request.uid.as_deref().is_some_and(|uid| uid != vmi.uid()),
        (StateChangeAction::Start, None) => false,
        (StateChangeAction::Start, Some(vmi)) => {
            let ended = vmi.status.as_ref().is_some_and(|status| status.phase.is_final());
            !ended && !vmi.is_deleting()
        }
    }
}
