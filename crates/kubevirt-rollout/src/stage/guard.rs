//! The guard: a kind that not every release in play has can't be used before all are of one release.
//!
//! A ValidatingAdmissionPolicy, because the API server itself enforces it, with virt-api and the operator down. It
//! also refuses a ConfigMap of one name, so that a dry run shows whether it is enforced already.

use std::collections::BTreeSet;

use kubevirt_manifests::{Manifest, ManifestSet};
use kubevirt_types::{GROUP, ObjectKey};
use serde_json::{Value, json};

use crate::context::{Context, Handover, Outcome, is_managed};
use crate::order::{Class, class};
use crate::waiting::WaitingOn;

/// Name of the policy and of its binding.
pub const GUARD: &str = "kubevirt-version-guard";
/// Name of the ConfigMap that the guard refuses.
pub const GUARD_PROBE: &str = "kubevirt-guard-probe";

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// A kind that is guarded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GuardedKind {
    /// Its CRD.
    pub crd: ObjectKey,
    /// Plural name.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether the target has it.
    pub new: bool,
}

/// The kinds that have to be guarded now.
pub(crate) fn guarded_kinds(context: &Context<'_>) -> Vec<GuardedKind> {
    let has = |set: &ManifestSet, key: &ObjectKey| set.get(key).is_some();
    let live = context
        .view
        .observed
        .objects
        .iter()
        .filter(|(key, object)| class(key) == Class::Crd && is_managed(object));
    let wanted = context.of_class(Class::Crd).map(|manifest| (&manifest.key, &manifest.body));
    let over = match context.handover() {
        Handover::Over | Handover::LostNodes(_) => true,
        Handover::OldPods(_) => false,
    };
    // a kind that was open before is closed only while nobody uses it: an old virt-handler that comes back late
    // is no reason to refuse changes of what runs
    let in_use = |plural: &str| {
        context.reached_before()
            && context.view.observed.instances.get(plural).is_some_and(|found| found.count > 0)
    };
    let mut kinds = BTreeSet::new();
    for (key, crd) in live.chain(wanted).filter(|(_, crd)| crd["spec"]["group"] == GROUP) {
        let new = has(context.target, key);
        let everywhere = new && (over || context.old.iter().all(|set| has(set, key)));
        if let (false, Some((plural, kind))) = (everywhere, names(crd))
            && !(new && in_use(&plural))
        {
            kinds.insert(GuardedKind { crd: key.clone(), plural, kind, new });
        }
    }
    kinds.into_iter().collect()
}

fn names(crd: &Value) -> Option<(String, String)> {
    let name = |field: &str| Some(crd["spec"]["names"][field].as_str()?.to_owned());
    Some((name("plural")?, name("kind")?))
}

/// Puts the guard up, where there is something to guard, and waits until it is enforced.
pub(crate) fn raise(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let kinds = guarded_kinds(context);
    if !kinds.is_empty() {
        for body in [policy(context, &kinds), binding()] {
            context.view.ensure(&Manifest::managed(body, &context.target.config), &mut outcome);
        }
        if !context.view.observed.guard_active {
            outcome.waiting_on.push(WaitingOn::GuardNotActive);
        }
    }
    outcome
}

/// Takes the guard away, when nothing is left to guard.
pub(crate) fn drop(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if guarded_kinds(context).is_empty() {
        for key in keys() {
            context.view.delete(&key, &mut outcome);
        }
    }
    outcome
}

/// The guard's objects, the one that enforces it first.
pub(crate) fn keys() -> [ObjectKey; 2] {
    ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"]
        .map(|kind| ObjectKey::cluster(API_VERSION, kind, GUARD))
}

fn policy(context: &Context<'_>, kinds: &[GuardedKind]) -> Value {
    let target = &context.target.config.release;
    let from = context.from().map(|from| format!(" from {from}")).unwrap_or_default();
    let probe = format!(
        "request.namespace == '{}' && has(object.metadata.name) && object.metadata.name == '{GUARD_PROBE}'",
        context.target.config.namespace
    );
    let mut validations: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            let message = if kind.new {
                format!(
                    "{} is new in {target}: the version gate is closed until the update{from} to {target} is over",
                    kind.kind
                )
            } else {
                format!(
                    "{} does not exist in {target}: the version gate is closed because of the return{from} to {target}",
                    kind.kind
                )
            };
            json!({
                "expression": format!("request.resource.resource != '{}'", kind.plural),
                "message": message,
                "reason": "Forbidden",
            })
        })
        .collect();
    validations.push(json!({
        "expression": "request.resource.resource != 'configmaps'",
        "message": "the version gate is closed",
        "reason": "Forbidden",
    }));
    let plurals: Vec<&str> = kinds.iter().map(|kind| kind.plural.as_str()).collect();
    json!({
        "apiVersion": API_VERSION, "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": GUARD},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "resourceRules": [
                    {
                        "apiGroups": [GROUP], "apiVersions": ["*"], "resources": plurals,
                        "operations": ["CREATE", "UPDATE"], "scope": "*",
                    },
                    {
                        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                        "operations": ["CREATE"], "scope": "Namespaced",
                    },
                ],
            },
            "matchConditions": [
                {
                    "name": "not-what-is-going-away",
                    "expression": "!has(object.metadata.deletionTimestamp)",
                },
                {
                    "name": "our-kinds-and-the-probe",
                    "expression": format!("request.resource.group == '{GROUP}' || ({probe})"),
                },
            ],
            "validations": validations,
        },
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": GUARD},
        "spec": {"policyName": GUARD, "validationActions": ["Deny"]},
    })
}
