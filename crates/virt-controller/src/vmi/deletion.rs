//! The end of an instance that somebody deleted.
//!
//! virt-handler shuts the guest down and sets a final phase; then the pod goes, then the
//! finalizer. Without a virt-handler the pod's own SIGTERM shuts the guest down, later.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::{VmiPhase, labels};

use super::pods::{self, Launcher};
use super::{Inputs, Owner, REPORT_GRACE, delete_pods, last_grace, moves, status, write_status};
use crate::decision::{Action, Decision};
use crate::{launcher, owner};

/// How long after the guest's grace virt-handler has for its report, before the pod is
/// deleted without it.
const HANDLER_GRACE: Duration = Duration::from_secs(30);

/// What to do about an instance that is being deleted.
pub(super) fn decide(inputs: &Inputs, pods: &[&Pod], now: Timestamp) -> Decision {
    let vmi = &*inputs.vmi;
    let phase = vmi.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if pods.is_empty() {
        return without_pods(inputs, phase, now);
    }
    let mut decision = Decision::default();
    let mut wanted = vmi.status.clone().unwrap_or_default();
    moves::observe(inputs, pods, &mut wanted, &mut decision, now);
    write_status(vmi, &wanted, &mut decision);
    match phase {
        // Nobody but us knows of the pod.
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling => {}
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => {
            let due = handler_deadline(inputs, pods);
            if now < due {
                decision.look_again_at(due, now);
                return decision;
            }
        }
        VmiPhase::Succeeded | VmiPhase::Failed => {}
    }
    decision.actions.extend(delete_pods(pods.iter().copied()));
    decision
}

/// Until when virt-handler is waited for.
fn handler_deadline(inputs: &Inputs, pods: &[&Pod]) -> Timestamp {
    let vmi = &*inputs.vmi;
    let asked = vmi.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    // A day is more than any guest's grace, and can't overflow.
    let grace = launcher::grace_seconds(vmi).clamp(0, 86_400).unsigned_abs();
    let deadline = asked + Duration::from_secs(grace) + HANDLER_GRACE;
    match pods::current(vmi, pods) {
        Launcher::Finished { at, .. } => at.map_or(asked, |at| at + REPORT_GRACE).min(deadline),
        Launcher::Missing | Launcher::Preparing(_) | Launcher::Ready(..) => deadline,
    }
}

/// Its pods have ended, or went with their node: then its guest may have a while yet, and another of its name mustn't begin.
fn without_pods(inputs: &Inputs, phase: VmiPhase, now: Timestamp) -> Decision {
    let mut wanted = inputs.vmi.status.clone().unwrap_or_default();
    let due = match phase {
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => {
            let moving = wanted.migration_state.as_mut().filter(|state| !state.is_final());
            let lingers = moving.and_then(|state| moves::last_grace(&inputs.vmi, state, now));
            last_grace(inputs, &mut wanted, now).max(lingers)
        }
        VmiPhase::Unset
        | VmiPhase::Pending
        | VmiPhase::Scheduling
        | VmiPhase::Succeeded
        | VmiPhase::Failed => None,
    };
    let Some(due) = due else { return let_go(inputs, phase, now) };
    let mut decision = Decision { confirm: true, ..Decision::default() };
    write_status(&inputs.vmi, &wanted, &mut decision);
    decision.look_again_at(due, now);
    decision
}

/// No pod is left: write down the end, and let the object go.
fn let_go(inputs: &Inputs, phase: VmiPhase, now: Timestamp) -> Decision {
    let vmi = &*inputs.vmi;
    let mut decision = Decision { confirm: true, ..Decision::default() };
    let mut wanted = vmi.status.clone().unwrap_or_default();
    status::observe_pods(&mut wanted, vmi, &[]);
    match phase {
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling => {
            status::end(&mut wanted, VmiPhase::Failed, "Deleted", "it was deleted before its guest ran", now);
        }
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => {
            status::end(&mut wanted, VmiPhase::Succeeded, "Deleted", "", now);
        }
        VmiPhase::Succeeded | VmiPhase::Failed => {}
    }
    write_status(vmi, &wanted, &mut decision);
    let ours: &[&str] = match inputs.owner {
        // Its VM takes its own finalizer away, when it has seen how this ended.
        Owner::Alive => &[labels::FINALIZER_VMI],
        Owner::None | Owner::Gone => &[labels::FINALIZER_VMI, labels::FINALIZER_VM],
    };
    if let Some(patch) = owner::remove_finalizers(&vmi.metadata, ours) {
        decision.actions.push(Action::Patch(patch));
    }
    decision.confirm = !decision.actions.is_empty();
    decision
}
