//! CustomResourceDefinitions. While releases are mixed, whatever one of them serves stays served.

use std::borrow::Cow;

use kubevirt_manifests::Manifest;
use serde_json::{Value, json};

use crate::context::{Context, Handover, Outcome, View, is_deleting};
use crate::order::Class;
use crate::plan::Direction;
use crate::stage::guard;
use crate::waiting::WaitingOn;

/// Brings in what the target needs, and takes nothing away. A rollback brings only what is missing: fields that
/// the newer release knows must not be lost while its pods run.
pub(crate) fn union(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let guarded = guard::guarded_kinds(context);
    for manifest in context.of_class(Class::Crd) {
        let live = context.view.live(&manifest.key);
        if live.is_some() && context.direction == Direction::Rollback {
            continue;
        }
        if live.is_none()
            && guarded.iter().any(|kind| kind.crd == manifest.key)
            && !context.view.observed.guard_active
        {
            if !outcome.waiting_on.contains(&WaitingOn::GuardNotActive) {
                outcome.waiting_on.push(WaitingOn::GuardNotActive);
            }
            continue;
        }
        context.view.ensure(&merged(manifest, live, |_| true), &mut outcome);
        established(context.view, manifest, &mut outcome);
    }
    outcome
}

/// Brings every CRD to the target's form, but for versions in which objects are still stored; waits while a pod of
/// another release may act. For those on lost nodes nobody waits, but what they use stays served.
pub(crate) fn exact(context: &Context<'_>) -> Outcome {
    match context.handover() {
        Handover::OldPods(waiting) => waiting.clone().into(),
        Handover::LostNodes(waiting) => {
            let mut outcome = union(context);
            outcome.notes.push(waiting.clone());
            outcome
        }
        Handover::Over => {
            let mut outcome = Outcome::default();
            for manifest in context.of_class(Class::Crd) {
                let live = context.view.live(&manifest.key);
                context.view.ensure(&exactly(manifest, live), &mut outcome);
                established(context.view, manifest, &mut outcome);
            }
            outcome
        }
    }
}

/// The target's form of a CRD, with those versions in which objects are still stored.
pub(crate) fn exactly<'m>(manifest: &'m Manifest, live: Option<&Value>) -> Cow<'m, Manifest> {
    let stored: Vec<&str> = live.map(stored_versions).unwrap_or_default();
    merged(manifest, live, |version| stored.contains(&version))
}

/// Why the target's CRDs can't take over from the live ones; none when they can.
pub(crate) fn refusal(context: &Context<'_>) -> Option<String> {
    context.of_class(Class::Crd).find_map(|manifest| {
        let live = context.view.live(&manifest.key)?;
        let wanted: Vec<&str> = versions(&manifest.body).filter_map(version_name).collect();
        let lost = stored_versions(live)
            .into_iter()
            .chain(versions(live).filter(|v| v["storage"] == json!(true)).filter_map(version_name))
            .find(|stored| !wanted.contains(stored))?;
        Some(format!(
            "CustomResourceDefinition {}: objects are stored as version {lost}, and {} has {} instead: \
             changing a version in place is not supported, a release must serve the old version beside the new one",
            manifest.key.name,
            context.target.config.release,
            wanted.join(", "),
        ))
    })
}

/// The versions in which objects may be stored.
pub(crate) fn stored_versions(live: &Value) -> Vec<&str> {
    live["status"]["storedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The versions of a CRD.
pub(crate) fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd["spec"]["versions"].as_array().into_iter().flatten()
}

/// The name of one version.
pub(crate) fn version_name(version: &Value) -> Option<&str> {
    version["name"].as_str()
}

/// The manifest, with those live versions that it lacks and `keep` wants.
fn merged<'m>(
    manifest: &'m Manifest,
    live: Option<&Value>,
    keep: impl Fn(&str) -> bool,
) -> Cow<'m, Manifest> {
    let known: Vec<String> = versions(&manifest.body).filter_map(version_name).map(str::to_owned).collect();
    let extra: Vec<Value> = live
        .into_iter()
        .flat_map(versions)
        .filter(|version| {
            version_name(version).is_some_and(|name| !known.iter().any(|k| k == name) && keep(name))
        })
        .map(|version| {
            let mut version = version.clone();
            version["storage"] = json!(false);
            version
        })
        .collect();
    if extra.is_empty() {
        return Cow::Borrowed(manifest);
    }
    let mut manifest = manifest.clone();
    if let Some(list) = manifest.body["spec"]["versions"].as_array_mut() {
        list.extend(extra);
    }
    Cow::Owned(manifest.rehashed())
}

fn established(view: View<'_>, manifest: &Manifest, outcome: &mut Outcome) {
    let established = view.live(&manifest.key).is_some_and(|live| {
        !is_deleting(live)
            && live["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    });
    if !established {
        outcome.waiting_on.push(WaitingOn::CrdNotEstablished { name: manifest.key.name.clone() });
    }
}
