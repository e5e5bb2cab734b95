//! The status of the KubeVirt object: phase, conditions, versions, gate, history.
//!
//! A function of the view and the plan, so an unchanged world gives the same status, byte for byte. The strings
//! are KubeVirt's own; what they wait for is added to them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubevirt_types::condition::{Condition, remove, set};
use kubevirt_types::kubevirt::{GenerationStatus, KubeVirtPhase, KubeVirtStatus, OnFailure, UpdateRecord};
use kubevirt_types::{KubeVirt, Release, gate};
use serde_json::Value;

use crate::context::is_managed;
use crate::observed::Observed;
use crate::order::Component;
use crate::plan::{Direction, Plan, Stage};
use crate::waiting::WaitingOn;

const SYNCHRONIZED: &str = "Synchronized";
const CREATED: &str = "Created";
const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const DEGRADED: &str = "Degraded";

/// Updates that are remembered.
const MAX_HISTORY: usize = 10;
/// Things that a message waits for.
const MAX_WAITING: usize = 3;

/// Kinds whose generation is kept in the status, with the group and resource under which KubeVirt keeps it.
const GENERATIONS: [(&str, &str, &str); 6] = [
    ("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions"),
    ("MutatingWebhookConfiguration", "admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("ValidatingWebhookConfiguration", "admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("PodDisruptionBudget", "apps", "poddisruptionbudgets"),
    ("Deployment", "apps", "deployments"),
    ("DaemonSet", "apps", "daemonsets"),
];

/// The status that follows from a view and the plan made from it.
pub fn status(observed: &Observed, plan: &Plan, now: Timestamp) -> KubeVirtStatus {
    let Some(kubevirt) = &observed.kubevirt else { return KubeVirtStatus::default() };
    let mut status = kubevirt.status.clone().unwrap_or_default();
    if !observed.synced {
        return status;
    }
    status.operator_version = Some(observed.operator.release.to_string());
    if kubevirt.is_deleting() {
        deleting(&mut status, plan, now);
        return status;
    }
    let arrived = plan.direction == Direction::Steady || plan.stage == Stage::Settled;
    if let Some(target) = &plan.target {
        status.target_kube_virt_version = Some(target.release.to_string());
        status.target_kube_virt_registry = Some(target.registry.clone());
        status.target_deployment_config = Some(target.to_json());
        status.target_deployment_id = Some(target.id());
    }
    status.failed_update = plan.failed.clone();
    record(&mut status, plan, arrived, now);
    if arrived {
        status.observed_kube_virt_version = status.target_kube_virt_version.clone();
        status.observed_kube_virt_registry = status.target_kube_virt_registry.clone();
        status.observed_deployment_config = status.target_deployment_config.clone();
        status.observed_deployment_id = status.target_deployment_id.clone();
        if plan.failed.is_none() {
            status.observed_generation = kubevirt.metadata.generation;
        }
    }
    status.generations = generations(observed);
    status.version_gate = version_gate(observed, &status);
    conditions(&mut status, observed, plan, arrived, now);
    status
}

/// The status of a KubeVirt object that is not the one that is carried out: there is another, or this one is not in the
/// operator's namespace.
pub fn refused_duplicate(
    kubevirt: &KubeVirt,
    active: Option<&KubeVirt>,
    namespace: &str,
    now: Timestamp,
) -> KubeVirtStatus {
    let mut status = kubevirt.status.clone().unwrap_or_default();
    let (reason, message) = match active {
        Some(_) => ("ExistingDeployment", "There is an active KubeVirt deployment".to_owned()),
        None => {
            let message = format!(
                "virt-operator runs in namespace {namespace}: the KubeVirt object has to be created there"
            );
            ("WrongNamespace", message)
        }
    };
    set(&mut status.conditions, Condition::new(SYNCHRONIZED, false, reason, message), now);
    status
}

fn deleting(status: &mut KubeVirtStatus, plan: &Plan, now: Timestamp) {
    let over = plan.stage >= Stage::RemoveFinalizer;
    status.phase = Some(if over { KubeVirtPhase::Deleted } else { KubeVirtPhase::Deleting });
    let message = format!("Deletion was triggered{}", suffix(&plan.waiting_on));
    for (type_, yes) in [(AVAILABLE, false), (PROGRESSING, false), (DEGRADED, true)] {
        set(&mut status.conditions, Condition::new(type_, yes, "DeletionInProgress", &message), now);
    }
    remove(&mut status.conditions, CREATED);
    remove(&mut status.conditions, SYNCHRONIZED);
}

fn conditions(status: &mut KubeVirtStatus, observed: &Observed, plan: &Plan, arrived: bool, now: Timestamp) {
    let failing = plan.waiting_on.iter().find(|waiting| waiting.cause().is_some());
    let silent = Component::ALL[1..]
        .iter()
        .find(|component| !observed.pods.iter().any(|pod| pod.component == component.name() && pod.serves()));
    let once = status.observed_deployment_id.is_some();
    let mut put = |type_: &str, yes: bool, reason: &str, message: &str| {
        set(&mut status.conditions, Condition::new(type_, yes, reason, message), now);
    };
    let available = |put: &mut dyn FnMut(&str, bool, &str, &str), reason: &str, message: &str| match silent {
        None => put(AVAILABLE, true, reason, message),
        Some(component) => {
            let name = component.name();
            put(AVAILABLE, false, "ComponentNotReady", &format!("No pod of {name} is ready."));
        }
    };
    let ready = ("AllComponentsReady", "All components are ready.");
    if arrived {
        put(CREATED, true, "AllResourcesCreated", "All resources were created.");
        available(&mut put, ready.0, ready.1);
        put(PROGRESSING, false, ready.0, ready.1);
        match failing {
            None => put(DEGRADED, false, ready.0, ready.1),
            Some(failing) => put(DEGRADED, true, failing.reason(), &failing.to_string()),
        }
        remove(&mut status.conditions, SYNCHRONIZED);
        status.phase = Some(KubeVirtPhase::Deployed);
        return;
    }
    if let Some(WaitingOn::Refused { cause }) = failing {
        let message = format!("An error occurred during deployment: {cause}");
        put(SYNCHRONIZED, false, "DeploymentFailed", &message);
        if !once {
            status.phase.get_or_insert(KubeVirtPhase::Deploying);
        }
        if once {
            available(&mut put, ready.0, ready.1);
        } else {
            put(AVAILABLE, false, "DeploymentFailed", &message);
        }
        put(PROGRESSING, false, "DeploymentFailed", &message);
        put(DEGRADED, true, "DeploymentFailed", &message);
        return;
    }
    let waiting = suffix(&plan.waiting_on);
    let Some(target) = &plan.target else { return };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if once {
        // a target that is given up before it is reached is what the way back comes from
        let given_up = status.history.last().filter(|record| record.completed.is_none());
        let failed = plan.failed.as_ref().map(|failed| failed.version.clone());
        let previous = failed
            .filter(|failed| *failed != target.release.to_string())
            .or_else(|| given_up.and_then(|record| record.from.clone()));
        let message = format!(
            "Transitioning from previous version {} with registry {} to target version {} using registry {}{waiting}",
            previous.unwrap_or_else(|| text(&status.observed_kube_virt_version)),
            text(&status.observed_kube_virt_registry),
            target.release,
            target.registry,
        );
        available(&mut put, "UpdateInProgress", &message);
        let paused = plan.failed.as_ref().is_some_and(|failed| failed.action == OnFailure::Pause);
        put(PROGRESSING, !paused, if paused { "UpdateFailed" } else { "UpdateInProgress" }, &message);
        put(DEGRADED, true, failing.map_or("UpdateInProgress", WaitingOn::reason), &message);
        remove(&mut status.conditions, CREATED);
    } else {
        let message =
            format!("Deploying version {} with registry {}{waiting}", target.release, target.registry);
        put(AVAILABLE, false, "DeploymentInProgress", &message);
        put(PROGRESSING, true, "DeploymentInProgress", &message);
        match failing {
            None => put(DEGRADED, false, "DeploymentInProgress", &message),
            Some(failing) => put(DEGRADED, true, failing.reason(), &message),
        }
        status.phase = Some(KubeVirtPhase::Deploying);
    }
    remove(&mut status.conditions, SYNCHRONIZED);
}

/// What a message adds about what it waits for.
fn suffix(waiting_on: &[WaitingOn]) -> String {
    let texts: Vec<String> = waiting_on.iter().take(MAX_WAITING).map(ToString::to_string).collect();
    if texts.is_empty() { String::new() } else { format!(": waiting for {}", texts.join("; ")) }
}

/// Keeps the history: a record begins with the first plan for a target and ends when the target is reached. One
/// that was given up for another target is forgotten.
fn record(status: &mut KubeVirtStatus, plan: &Plan, arrived: bool, now: Timestamp) {
    let Some(target) = plan.target.as_ref().map(|target| target.release.to_string()) else { return };
    let moving = !arrived && plan.stage != Stage::Blocked;
    let another = status.observed_deployment_id != status.target_deployment_id;
    if let Some(failed) = &plan.failed {
        if let Some(open) = status.history.last_mut().filter(|record| record.completed.is_none()) {
            open.completed = Some(failed.at);
            open.failed = Some(failed.cause.clone());
        }
        return;
    }
    let open = status.history.last().filter(|record| record.completed.is_none()).cloned();
    match open {
        Some(open) if open.to == target => {
            if let (true, Some(last)) = (arrived, status.history.last_mut()) {
                last.completed = Some(now);
            }
        }
        Some(open) if moving || arrived => {
            status.history.pop();
            if moving {
                status.history.push(UpdateRecord {
                    from: Some(open.to),
                    to: target,
                    started: now,
                    completed: None,
                    failed: None,
                });
            }
        }
        None if moving && another => {
            let from = status.observed_kube_virt_version.clone();
            status.history.push(UpdateRecord {
                from,
                to: target,
                started: now,
                completed: None,
                failed: None,
            });
        }
        Some(_) | None => {}
    }
    let surplus = status.history.len().saturating_sub(MAX_HISTORY);
    status.history.drain(..surplus);
}

fn generations(observed: &Observed) -> Vec<GenerationStatus> {
    let of_kind = |(kind, group, resource): (&'static str, &'static str, &'static str)| {
        observed.objects.iter().filter(move |(key, live)| key.kind == kind && is_managed(live)).filter_map(
            move |(key, live)| {
                Some(GenerationStatus {
                    group: group.to_owned(),
                    resource: resource.to_owned(),
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    last_generation: live.pointer("/metadata/generation").and_then(Value::as_i64)?,
                    hash: kubevirt_manifests::manifest_hash(live).map(str::to_owned),
                })
            },
        )
    };
    GENERATIONS.into_iter().flat_map(of_kind).collect()
}

/// The gate for what the newest release in play brought.
fn version_gate(observed: &Observed, status: &KubeVirtStatus) -> Option<gate::GateStatus> {
    let releases: BTreeSet<Release> = [&status.target_kube_virt_version, &status.observed_kube_virt_version]
        .into_iter()
        .filter_map(|release| release.as_deref()?.parse().ok())
        .collect();
    Some(gate::status(releases.last()?, &gate::floor(&observed.reporters)))
}
