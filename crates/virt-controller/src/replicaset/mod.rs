//! The VirtualMachineInstanceReplicaSet controller: as many equal instances as are wanted.
//!
//! Pure: [`decide`] sees one replica set, the instances that it controls and the time. It
//! adopts nothing: what it doesn't control it doesn't count, and what no longer matches its
//! selector it lets go. Names come from the set's uid and a slot, so two leaders collide
//! instead of making one too many.

mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet, VmiPhase};
use serde_json::json;

use crate::decision::{Action, Decision};
use crate::launcher::short_hash;
use crate::vm::{from_template, owner_reference};
use crate::{merge, owner};
pub use status::on_failure;

/// How many instances are made or deleted in one round.
const BURST: usize = 50;
/// How long a failed instance keeps its place, so that a template that can't work doesn't
/// make instances as fast as the API server can take them.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// All that a decision about a replica set depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The replica set.
    pub set: Arc<VirtualMachineInstanceReplicaSet>,
    /// Instances that it may control.
    pub vmis: Vec<Arc<VirtualMachineInstance>>,
    /// QEMU's machine type for templates that name none.
    pub machine_type: String,
}

/// The instances of a replica set, by what they are to it.
#[derive(Debug, Default)]
struct Members<'a> {
    /// Alive and wanted.
    active: Vec<&'a VirtualMachineInstance>,
    /// Failed a moment ago: still counted.
    resting: Vec<(&'a VirtualMachineInstance, Timestamp)>,
    /// Ended, to be deleted.
    ended: Vec<&'a VirtualMachineInstance>,
    /// No longer matched by the selector.
    strangers: Vec<&'a VirtualMachineInstance>,
    /// Every name that is in use.
    taken: BTreeSet<&'a str>,
}

/// What to do about a replica set.
pub fn decide(inputs: &Inputs, now: Timestamp) -> Decision {
    let set = &*inputs.set;
    let mut decision = Decision::default();
    if set.is_deleting() {
        // The garbage collector takes the instances away, or orphans them, as it was asked to.
        return decision;
    }
    let mut wanted = set.status.clone().unwrap_or_default();
    let selector = match Selector::try_from(set.spec.selector.clone()) {
        Ok(selector) if !selector.selects_all() => selector,
        Ok(_) => return refuse(set, wanted, "the selector is empty", now),
        Err(error) => return refuse(set, wanted, &format!("the selector is invalid: {error}"), now),
    };
    let members = members(inputs, &selector, now);
    status::observe(&mut wanted, set, &members.active, &selector, now);
    let template_labels =
        set.spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if !selector.matches(&template_labels) {
        return refuse(set, wanted, "the selector doesn't match the template's labels", now);
    }
    write_status(set, &wanted, &mut decision);
    if set.spec.paused == Some(true) {
        return decision;
    }
    let effects = effects(inputs, &members);
    decision.confirm = !effects.is_empty();
    decision.actions.extend(effects);
    for (_, due) in &members.resting {
        decision.look_again_at(*due, now);
    }
    decision
}

fn members<'a>(inputs: &'a Inputs, selector: &Selector, now: Timestamp) -> Members<'a> {
    let mut members = Members::default();
    for vmi in inputs.vmis.iter().filter(|vmi| owner::controls(inputs.set.uid(), &vmi.metadata)) {
        members.taken.insert(vmi.name());
        let labels = vmi.metadata.labels.clone().unwrap_or_default();
        if !selector.matches(&labels) {
            members.strangers.push(vmi);
        } else if vmi.is_deleting() {
            continue;
        } else {
            match rest(vmi) {
                None => members.active.push(vmi),
                Some(due) if now < due => members.resting.push((vmi, due)),
                Some(_) => members.ended.push(vmi),
            }
        }
    }
    members
}

/// Until when an instance that has ended keeps its place; none for one that hasn't.
fn rest(vmi: &VirtualMachineInstance) -> Option<Timestamp> {
    let status = vmi.status.as_ref()?;
    let pause = match status.phase {
        VmiPhase::Failed => FAILURE_PAUSE,
        VmiPhase::Succeeded => Duration::ZERO,
        VmiPhase::Unset
        | VmiPhase::Pending
        | VmiPhase::Scheduling
        | VmiPhase::Scheduled
        | VmiPhase::Running
        | VmiPhase::Unknown => return None,
    };
    let reached = status.phase_transition_timestamps.iter().rev().find(|t| t.phase == status.phase);
    Some(reached.map_or(Timestamp::UNIX_EPOCH, |t| t.phase_transition_timestamp + pause))
}

fn effects(inputs: &Inputs, members: &Members<'_>) -> Vec<Action> {
    let set = &*inputs.set;
    let replicas = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut effects: Vec<Action> = members.strangers.iter().map(|vmi| let_go(set, vmi)).collect();
    effects.extend(members.ended.iter().copied().map(delete));
    let counted = members.active.len() + members.resting.len();
    let surplus = members.active.len().saturating_sub(replicas).min(BURST);
    let mut by_worth = members.active.clone();
    // Those that serve stay, and of equals the one that has run longest.
    by_worth.sort_by_key(|vmi| {
        let age = vmi.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (is_ready(vmi), std::cmp::Reverse(age))
    });
    effects.extend(by_worth.into_iter().take(surplus).map(delete));
    let missing = replicas.saturating_sub(counted).min(BURST);
    let names =
        (0usize..).map(|slot| slot_name(set, slot)).filter(|name| !members.taken.contains(name.as_str()));
    effects.extend(names.take(missing).map(|name| create(inputs, name)));
    effects
}

/// The name of a slot's instance: the same for every leader.
fn slot_name(set: &VirtualMachineInstanceReplicaSet, slot: usize) -> String {
    format!("{}-{}", set.name(), short_hash(&format!("{}/{slot}", set.uid())))
}

fn create(inputs: &Inputs, name: String) -> Action {
    let set = &*inputs.set;
    let mut vmi = from_template(&set.spec.template, &inputs.machine_type);
    vmi.metadata.name = Some(name);
    vmi.metadata.namespace = set.metadata.namespace.clone();
    vmi.metadata.owner_references =
        Some(vec![owner_reference("VirtualMachineInstanceReplicaSet", &set.metadata)]);
    Action::CreateVmi(Box::new(vmi))
}

fn delete(vmi: &VirtualMachineInstance) -> Action {
    Action::DeleteVmi { name: vmi.name().to_owned(), uid: vmi.uid().to_owned() }
}

/// Removes our owner reference from an instance.
fn let_go(set: &VirtualMachineInstanceReplicaSet, vmi: &VirtualMachineInstance) -> Action {
    let owners = vmi.metadata.owner_references.iter().flatten();
    let left: Vec<_> = owners.filter(|owner| owner.uid != set.uid()).collect();
    let patch = json!({ "metadata": { "ownerReferences": left } });
    Action::PatchVmi { name: vmi.name().to_owned(), patch: owner::guarded(patch, &vmi.metadata) }
}

/// Whether an instance's guest serves.
fn is_ready(vmi: &VirtualMachineInstance) -> bool {
    vmi.status.as_ref().is_some_and(|s| kubevirt_types::condition::is_true(&s.conditions, "Ready"))
}

/// Does nothing, and says why.
fn refuse(
    set: &VirtualMachineInstanceReplicaSet,
    mut wanted: kubevirt_types::vm::VirtualMachineInstanceReplicaSetStatus,
    message: &str,
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    status::fail(&mut wanted, "FailedCreate", message, now);
    write_status(set, &wanted, &mut decision);
    decision
}

fn write_status(
    set: &VirtualMachineInstanceReplicaSet,
    wanted: &kubevirt_types::vm::VirtualMachineInstanceReplicaSetStatus,
    decision: &mut Decision,
) {
    if let Some(patch) = merge::status_patch(set.status.as_ref(), wanted) {
        decision.actions.push(Action::PatchStatus(patch));
    }
}

#[cfg(test)]
mod tests;
