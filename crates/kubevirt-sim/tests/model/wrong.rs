//! Planners that are wrong on purpose, each in one way.

use jiff::Timestamp;
use kubevirt_manifests::Manifest;
use kubevirt_rollout::{Direction, Make, Observed, Plan, Policy, Precondition, Stage, Step, plan_with};
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

fn seen(live: &Value) -> (String, String) {
    let text = |field: &str| live["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("uid"), text("resourceVersion"))
}

fn applies<'s>(step: &'s Step, kind: &str) -> Option<&'s Manifest> {
    match step {
        Step::Apply { manifest, .. } if manifest.key.kind == kind => Some(manifest),
        _ => None,
    }
}

/// An update begins with virt-api (I3).
pub fn api_first(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    let key = ObjectKey::namespaced("apps/v1", "Deployment", "kubevirt", "virt-api");
    if plan.direction == Direction::Update
        && let Some(config) = plan.target.clone()
        && let (Some(mut manifest), Some(live)) =
            (make(&config).get(&key).cloned(), observed.objects.get(&key))
    {
        let template = &mut manifest.body["spec"]["template"];
        let hash = kubevirt_manifests::config::hash(&template.to_string());
        template["metadata"]["annotations"][labels::TEMPLATE_HASH] = json!(hash);
        let (uid, resource_version) = seen(live);
        let first = Step::Apply {
            manifest: manifest.rehashed(),
            precondition: Precondition::Unchanged { uid, resource_version },
        };
        for step in plan.steps.iter_mut().filter(|step| applies(step, "DaemonSet").is_some()) {
            *step = first.clone();
        }
    }
    plan
}

/// Every node gets the new virt-handler at once (I6).
pub fn no_canary(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    for step in &mut plan.steps {
        if let Step::Apply { manifest, .. } = step
            && manifest.key.kind == "DaemonSet"
        {
            manifest.body["spec"]["minReadySeconds"] = json!(0);
            manifest.body["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = json!("100%");
        }
    }
    plan
}

/// virt-api is replaced before its successor is there (I4).
pub fn api_with_a_gap(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    for step in &mut plan.steps {
        if let Step::Apply { manifest, .. } = step
            && manifest.key.name == "virt-api"
            && manifest.key.kind == "Deployment"
        {
            manifest.body["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": 1});
        }
    }
    plan
}

/// An orphan goes while old pods live (I8).
pub fn orphans_early(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.direction == Direction::Update
        && plan.stage == Stage::Handlers
        && let Some(target) = &plan.target
    {
        let target = make(target);
        let orphans = observed
            .objects
            .iter()
            .filter(|(key, _)| key.kind == "Service" && target.get(key).is_none())
            .map(|(key, live)| {
                let (uid, resource_version) = seen(live);
                Step::Delete { key: key.clone(), uid, resource_version }
            });
        plan.steps.extend(orphans);
    }
    plan
}

/// A new kind is there before it is guarded.
pub fn no_guard(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.stage == Stage::Guard
        && let Some(target) = plan.target.clone()
    {
        let new = |one: &&Manifest| {
            one.key.kind == "CustomResourceDefinition" && !observed.objects.contains_key(&one.key)
        };
        let target = make(&target);
        let create =
            |one: &Manifest| Step::Apply { manifest: one.clone(), precondition: Precondition::Absent };
        plan.steps = target.manifests.iter().filter(new).map(create).collect();
    }
    plan
}

/// The last old rules are never taken back (I11).
pub fn never_done(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.stage == Stage::ExactRbac {
        plan.steps.clear();
    }
    plan
}
