//! What the target doesn't have goes, when everything has rolled (I8).

use kubevirt_types::labels::CONFIGMAP_CA;
use kubevirt_types::{GROUP, Kind, ObjectKey};

use crate::context::{Context, Handover, Outcome, is_managed};
use crate::order::{Class, class};
use crate::plan::Direction;
use crate::step::Step;
use crate::waiting::WaitingOn;

pub(crate) fn delete(context: &Context<'_>) -> Outcome {
    match context.handover() {
        Handover::OldPods(waiting) => return waiting.clone().into(),
        Handover::LostNodes(waiting) => {
            return Outcome { notes: vec![waiting.clone()], ..Outcome::default() };
        }
        Handover::Over => {}
    }
    let mut outcome = Outcome::default();
    let orphans = context
        .view
        .observed
        .objects
        .iter()
        .filter(|(key, live)| is_managed(live) && context.target.get(key).is_none() && !stays(key));
    for (key, live) in orphans {
        match leftovers(context, key, live) {
            Some(waiting) => outcome.waiting_on.push(waiting),
            None => context.view.delete(key, &mut outcome),
        }
    }
    if context.direction != Direction::Steady {
        old_strategies(context, &mut outcome);
    }
    outcome
}

/// What no manifest set names and yet belongs to us.
fn stays(key: &ObjectKey) -> bool {
    let kubevirts = format!("{}.{GROUP}", Kind::KubeVirt.plural());
    class(key) == Class::Guard
        || (key.kind == "ConfigMap" && key.name == CONFIGMAP_CA)
        || (class(key) == Class::Crd && key.name == kubevirts)
}

/// A kind that the target lacks goes only when nothing of it is left.
fn leftovers(context: &Context<'_>, key: &ObjectKey, live: &serde_json::Value) -> Option<WaitingOn> {
    if class(key) != Class::Crd {
        return None;
    }
    let plural = live["spec"]["names"]["plural"].as_str()?;
    let instances = context.view.observed.instances.get(plural).filter(|found| found.count > 0)?;
    Some(WaitingOn::Leftovers {
        kind: live["spec"]["names"]["kind"].as_str().unwrap_or(plural).to_owned(),
        target: context.target.config.release.to_string(),
        count: instances.count,
        some: instances.some.clone(),
    })
}

/// Keeps the target's manifest set and the one before it: a rollback needs no image.
fn old_strategies(context: &Context<'_>, outcome: &mut Outcome) {
    let observed = context.view.status().and_then(|status| status.observed_deployment_id.as_deref());
    let target = context.target.config.id();
    for (id, stored) in &context.view.observed.strategies {
        if *id != target && Some(id.as_str()) != observed {
            outcome.steps.push(Step::Delete {
                key: stored.handle.key.clone(),
                uid: stored.handle.uid.clone(),
                resource_version: stored.handle.resource_version.clone(),
            });
        }
    }
}
