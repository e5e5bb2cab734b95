//! Access rules: the union of all releases in play while their pods live, then exactly the target's (I7).

use std::collections::BTreeMap;

use kubevirt_manifests::Manifest;
use kubevirt_types::ObjectKey;
use serde_json::Value;

use crate::context::{Context, Handover, Outcome};
use crate::order::{Class, class};

/// The fields of an RBAC object that add up.
const LISTS: [&str; 2] = ["rules", "subjects"];

/// Everything that any release in play may do. An object that only an old release has stays as it is, and comes
/// back if somebody has deleted it. Once all have handed over, only what is missing is brought.
pub(crate) fn union(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    match context.handover() {
        Handover::Over => {
            let missing =
                context.of_class(Class::Rbac).filter(|manifest| context.view.live(&manifest.key).is_none());
            for manifest in missing {
                context.view.ensure(manifest, &mut outcome);
            }
        }
        Handover::LostNodes(_) | Handover::OldPods(_) => {
            for manifest in united(context) {
                context.view.ensure(&manifest, &mut outcome);
            }
        }
    }
    outcome
}

/// Exactly what the target may do; waits while a pod of another release may act. For those on lost nodes nobody waits,
/// but their rules stay.
pub(crate) fn exact(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    match context.handover() {
        Handover::OldPods(waiting) => outcome.waiting_on.push(waiting.clone()),
        Handover::LostNodes(waiting) => {
            outcome = union(context);
            outcome.notes.push(waiting.clone());
        }
        Handover::Over => {
            for manifest in context.of_class(Class::Rbac) {
                context.view.ensure(manifest, &mut outcome);
            }
        }
    }
    outcome
}

/// The union, by object: the target's object, with the old ones' rules and subjects added. Where no old manifest
/// set is left to ask, what lives stands for it.
pub(crate) fn united(context: &Context<'_>) -> Vec<Manifest> {
    let mut united: BTreeMap<ObjectKey, Manifest> = BTreeMap::new();
    let sets = std::iter::once(context.target).chain(context.old.iter().copied());
    for manifest in sets.flat_map(|set| &set.manifests).filter(|m| class(&m.key) == Class::Rbac) {
        united
            .entry(manifest.key.clone())
            .and_modify(|one| add(&mut one.body, &manifest.body))
            .or_insert_with(|| manifest.clone());
    }
    if context.old.is_empty() {
        for one in united.values_mut() {
            if let Some(live) = context.view.live(&one.key) {
                add(&mut one.body, live);
            }
        }
    }
    united.into_values().map(Manifest::rehashed).collect()
}

/// Adds those rules and subjects of `from` that `to` lacks.
fn add(to: &mut Value, from: &Value) {
    for list in LISTS {
        let Some(more) = from[list].as_array() else { continue };
        let Some(have) = to[list].as_array_mut() else { continue };
        for one in more {
            if !have.contains(one) {
                have.push(one.clone());
            }
        }
    }
}
