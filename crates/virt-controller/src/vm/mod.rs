//! The VirtualMachine controller: while a VM should run, a VirtualMachineInstance of its name exists.
//!
//! Pure: [`decide`] sees one VM, the instance of its name and the time. It never touches pods.
//! What must not be forgotten by the next leader (a failed start, a request that is done) is
//! written to the status before the write that would hide it.

mod instance;
mod requests;
mod start_failure;
mod status;
mod strategy;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubevirt_types::vm::{StateChangeRequest, VirtualMachineStatus};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, labels};
use serde_json::json;

use crate::decision::{Action, Decision};
use crate::{merge, owner};
pub use instance::{from_template, owner as owner_reference};
pub use status::on_failure;
use strategy::Want;

/// The finalizer with which the garbage collector makes orphans of dependents.
const ORPHAN: &str = "orphan";

/// All that a decision about a VM depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The VM.
    pub vm: Arc<VirtualMachine>,
    /// The instance of its name, whoever controls it.
    pub vmi: Option<Arc<VirtualMachineInstance>>,
    /// QEMU's machine type for templates that name none.
    pub machine_type: String,
}

/// The instance of a VM's name, as far as the VM is concerned.
#[derive(Debug, Clone, Copy)]
enum Instance<'a> {
    /// There is none.
    Missing,
    /// The VM controls it.
    Own(&'a VirtualMachineInstance),
    /// Somebody else's: a user's, or left over from a VM of the same name.
    Foreign,
}

impl<'a> Instance<'a> {
    fn of(inputs: &'a Inputs) -> Self {
        match &inputs.vmi {
            None => Self::Missing,
            Some(vmi) if owner::controls(inputs.vm.uid(), &vmi.metadata) => Self::Own(vmi),
            Some(_) => Self::Foreign,
        }
    }

    fn own(self) -> Option<&'a VirtualMachineInstance> {
        match self {
            Self::Own(vmi) => Some(vmi),
            Self::Missing | Self::Foreign => None,
        }
    }
}

/// What to do about a VM.
pub fn decide(inputs: &Inputs, now: Timestamp) -> Decision {
    let vm = &*inputs.vm;
    let instance = Instance::of(inputs);
    if vm.is_deleting() {
        return delete(vm, instance, now);
    }
    let mut decision = Decision::default();
    if let Some(patch) = owner::add_finalizer(&vm.metadata, labels::FINALIZER_VM) {
        decision.actions.push(Action::Patch(patch));
    }
    let mut wanted = vm.status.clone().unwrap_or_default();
    start_failure::observe(&mut wanted, vm.spec.effective_run_strategy(), instance.own(), now);
    if requests::consume(&mut wanted.state_change_requests, instance.own()) {
        // An instance that a lagging cache doesn't show yet may be the one that is meant.
        decision.confirm = true;
    }
    let want = strategy::want(vm, &mut wanted, instance.own());
    let (effects, due) = carry_out(inputs, instance, want, &mut wanted, now);
    strategy::observe(&mut wanted, vm, instance.own());
    status::observe(&mut wanted, vm, instance, now);
    write_status(vm, &wanted, &mut decision);
    decision.actions.extend(release(instance));
    decision.confirm |= !effects.is_empty();
    decision.actions.extend(effects);
    if let Some(due) = due {
        decision.look_again_at(due, now);
    }
    decision
}

/// The writes that follow from what is wanted, and when to try again.
fn carry_out(
    inputs: &Inputs,
    instance: Instance<'_>,
    want: Want,
    wanted: &mut VirtualMachineStatus,
    now: Timestamp,
) -> (Vec<Action>, Option<Timestamp>) {
    let vm = &*inputs.vm;
    match (want, instance) {
        (Want::Nothing, _) | (Want::Stop, Instance::Missing | Instance::Foreign) => (vec![], None),
        (Want::Start, Instance::Missing) => match start_failure::not_before(wanted) {
            Some(due) if now < due => (vec![], Some(due)),
            Some(_) | None => (vec![create(inputs, &wanted.state_change_requests)], None),
        },
        (Want::Start, Instance::Foreign) => {
            let message = format!("an instance {} that this VM doesn't control is in the way", vm.name());
            status::fail(wanted, "FailedCreate", &message, now);
            (vec![], None)
        }
        (Want::Start, Instance::Own(_)) => (vec![], None),
        (Want::Stop, Instance::Own(vmi)) => (stop(vmi), None),
        (Want::BecomeAlways, _) => {
            let spec = match vm.spec.run_strategy {
                Some(_) => json!({ "runStrategy": "Always" }),
                None => json!({ "running": true }),
            };
            (vec![Action::Patch(json!({ "spec": spec }))], None)
        }
    }
}

fn create(inputs: &Inputs, requests: &[StateChangeRequest]) -> Action {
    let mut vmi = instance::instance(&inputs.vm, &inputs.machine_type);
    if let Some(strategy) = requests::start_strategy(requests) {
        vmi.spec.start_strategy = Some(strategy);
    }
    Action::CreateVmi(Box::new(vmi))
}

fn stop(vmi: &VirtualMachineInstance) -> Vec<Action> {
    if vmi.is_deleting() {
        return vec![];
    }
    vec![Action::DeleteVmi { name: vmi.name().to_owned(), uid: vmi.uid().to_owned() }]
}

/// Lets an instance go whose end is seen. The status that tells of it is written before.
fn release(instance: Instance<'_>) -> Option<Action> {
    let vmi = instance.own()?;
    let ended = vmi.status.as_ref().is_some_and(|status| status.phase.is_final());
    if !(vmi.is_deleting() && ended) {
        return None;
    }
    let patch = owner::remove_finalizers(&vmi.metadata, &[labels::FINALIZER_VM])?;
    Some(Action::PatchVmi { name: vmi.name().to_owned(), patch: owner::guarded(patch, &vmi.metadata) })
}

/// A VM that is being deleted takes its instance with it, unless it is to be left an orphan.
fn delete(vm: &VirtualMachine, instance: Instance<'_>, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let mut wanted = vm.status.clone().unwrap_or_default();
    status::observe(&mut wanted, vm, instance, now);
    write_status(vm, &wanted, &mut decision);
    let finish = |metadata: &ObjectMeta| {
        owner::remove_finalizers(metadata, &[labels::FINALIZER_VM]).map(Action::Patch)
    };
    match instance {
        Instance::Own(vmi) if !owner::has_finalizer(&vm.metadata, ORPHAN) => {
            decision.actions.extend(release(instance));
            let effects = stop(vmi);
            decision.confirm = !effects.is_empty();
            decision.actions.extend(effects);
        }
        Instance::Own(_) | Instance::Foreign | Instance::Missing => {
            // An instance that a lagging cache doesn't show would be left behind.
            let last = finish(&vm.metadata);
            decision.confirm = last.is_some();
            decision.actions.extend(last);
        }
    }
    decision
}

fn write_status(vm: &VirtualMachine, wanted: &VirtualMachineStatus, decision: &mut Decision) {
    if let Some(patch) = merge::status_patch(vm.status.as_ref(), wanted) {
        decision.actions.push(Action::PatchStatus(patch));
    }
}

#[cfg(test)]
mod tests;
