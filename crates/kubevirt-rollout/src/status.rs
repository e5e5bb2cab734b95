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

/// Keeps the history: a record begins with the first plan for a target and ends when the target is reached, when it
/// fails, or when another takes its place. None is dropped before its turn: it is what its report is known by.
fn record(status: &mut KubeVirtStatus, plan: &Plan, arrived: bool, now: Timestamp) {
    let Some(target) = plan.target.as_ref().map(|target| target.release.to_string()) else { return };
    let moving = !arrived && plan.stage != Stage::Blocked;
    let another = status.observed_deployment_id != status.target_deployment_id;
    let open = status.history.last_mut().filter(|record| record.completed.is_none());
    if let Some(failed) = &plan.failed {
        if let Some(open) = open {
            open.completed = Some(failed.at);
            open.failed = Some(failed.cause.clone());
        }
        return;
    }
    match open {
        Some(open) if open.to == target => {
            if arrived {
                open.completed = Some(now);
            }
        }
        Some(open) if moving || arrived => {
            let given_up = open.to.clone();
            supersede(open, &target, now);
            if moving {
                status.history.push(begun(Some(given_up), target, now));
            }
        }
        None if moving && another => {
            let from = status.observed_kube_virt_version.clone();
            status.history.push(begun(from, target, now));
        }
        Some(_) | None => {}
    }
    let surplus = status.history.len().saturating_sub(MAX_HISTORY);
    status.history.drain(..surplus);
}

/// The record of an update that begins.
fn begun(from: Option<String>, to: String, started: Timestamp) -> UpdateRecord {
    UpdateRecord { from, to, started, completed: None, failed: None, superseded_by: None, report: None }
}

/// Closes a record whose target was given up for another one. An operator that doesn't know `superseded_by` reads, and
/// keeps, that it wasn't reached.
fn supersede(record: &mut UpdateRecord, by: &str, now: Timestamp) {
    record.completed = Some(now);
    record.failed = Some(format!("given up for {by}"));
    record.superseded_by = Some(by.to_owned());
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

#[cfg(test)]
mod tests {
    use kubevirt_manifests::InstallConfig;
    use kubevirt_types::ObjectKey;
    use kubevirt_types::kubevirt::FailedUpdate;
    use kubevirt_types::labels::{MANAGED_BY, MANAGED_BY_OPERATOR};
    use serde_json::json;

    use super::*;
    use crate::fixture::{at, observed, pod};
    use crate::observed::Pod;

    fn an_update(stage: Stage) -> Plan {
        Plan {
            direction: Direction::Update,
            stage,
            steps: vec![],
            waiting_on: vec![],
            target: Some(InstallConfig::of(Release::V0_18_0)),
            failed: None,
        }
    }

    fn record_of(from: &str, to: &str, started: i64, completed: Option<i64>) -> UpdateRecord {
        UpdateRecord {
            from: Some(from.to_owned()),
            to: to.to_owned(),
            started: at(started),
            completed: completed.map(at),
            failed: None,
            superseded_by: None,
            report: None,
        }
    }

    /// One that was given up for another at 100.
    fn superseded(from: &str, to: &str, started: i64, by: &str) -> UpdateRecord {
        UpdateRecord {
            failed: Some(format!("given up for {by}")),
            superseded_by: Some(by.to_owned()),
            ..record_of(from, to, started, Some(100))
        }
    }

    /// v0.17.0 runs, and this has been.
    fn world(history: Vec<UpdateRecord>) -> Observed {
        let mut observed = observed();
        observed.kubevirt.as_mut().unwrap().status = Some(KubeVirtStatus {
            observed_kube_virt_version: Some("v0.17.0".into()),
            observed_deployment_id: Some(InstallConfig::of(Release::V0_17_0).id()),
            history,
            ..KubeVirtStatus::default()
        });
        observed
    }

    fn history(before: Vec<UpdateRecord>, plan: &Plan) -> Vec<UpdateRecord> {
        status(&world(before), plan, at(100)).history
    }

    #[test]
    fn a_record_begins_with_the_first_plan_for_a_target_and_ends_with_its_arrival() {
        let begun = || record_of("v0.17.0", "v0.18.0", 100, None);
        let (moving, blocked, settled) =
            (an_update(Stage::Handlers), an_update(Stage::Blocked), an_update(Stage::Settled));
        assert_eq!(history(vec![], &moving), [begun()]);
        assert_eq!(history(vec![], &blocked), [], "nothing has begun");
        let open = |to: &str| vec![record_of("v0.17.0", to, 7, None)];
        assert_eq!(history(open("v0.18.0"), &moving), open("v0.18.0"));
        assert_eq!(history(open("v0.18.0"), &blocked), open("v0.18.0"));
        assert_eq!(history(open("v0.18.0"), &settled), [record_of("v0.17.0", "v0.18.0", 7, Some(100))]);

        let given_up = || superseded("v0.17.0", "v0.19.0", 7, "v0.18.0");
        assert_eq!(
            history(open("v0.19.0"), &moving),
            [given_up(), record_of("v0.19.0", "v0.18.0", 100, None)],
            "its report stays known"
        );
        assert_eq!(history(open("v0.19.0"), &blocked), open("v0.19.0"), "it may go on");
        assert_eq!(history(open("v0.19.0"), &settled), [given_up()], "it was given up before anything moved");
        assert_eq!(history(vec![given_up()], &settled), [given_up()], "once");

        let over = |n: i64| record_of("v0.16.0", "v0.17.0", n, Some(n));
        let full: Vec<UpdateRecord> = (0..10).map(over).collect();
        let mut expected: Vec<UpdateRecord> = (1..10).map(over).collect();
        expected.push(begun());
        assert_eq!(history(full, &moving), expected);

        let mut same = an_update(Stage::Handlers);
        same.target = Some(InstallConfig::of(Release::V0_17_0));
        assert_eq!(history(vec![], &same), [], "what ran before is put right");
    }

    #[test]
    fn a_failure_ends_the_open_record() {
        let failed = FailedUpdate {
            deployment_id: "d".into(),
            version: "v0.18.0".into(),
            component: "virt-handler".into(),
            node: None,
            cause: "it crashes".into(),
            at: at(50),
            action: OnFailure::Rollback,
            retry: None,
        };
        let plan = Plan { failed: Some(failed), ..an_update(Stage::Handlers) };
        let ended = UpdateRecord {
            failed: Some("it crashes".into()),
            ..record_of("v0.17.0", "v0.18.0", 7, Some(50))
        };
        let open = record_of("v0.17.0", "v0.18.0", 7, None);
        assert_eq!(history(vec![open], &plan).as_slice(), std::slice::from_ref(&ended));
        let again = history(vec![ended.clone()], &plan);
        assert_eq!(again.as_slice(), std::slice::from_ref(&ended), "it ended then");
    }

    #[test]
    fn there_and_back_and_there_again_in_the_middle_leaves_a_record_of_each() {
        let mut world = world(vec![]);
        let mut look = |release: Release, stage: Stage, now: i64| {
            let plan = Plan { target: Some(InstallConfig::of(release)), ..an_update(stage) };
            let status = status(&world, &plan, at(now));
            world.kubevirt.as_mut().unwrap().status = Some(status.clone());
            status
        };
        look(Release::V0_18_0, Stage::Handlers, 10);
        look(Release::V0_18_0, Stage::Handlers, 11);
        let back = look(Release::V0_17_0, Stage::Handlers, 20);
        assert_eq!(back.observed_kube_virt_version.as_deref(), Some("v0.17.0"), "nothing else was reached");
        look(Release::V0_17_0, Stage::Handlers, 21);
        look(Release::V0_18_0, Stage::Handlers, 30);
        look(Release::V0_18_0, Stage::Blocked, 31);
        look(Release::V0_18_0, Stage::Controllers, 32);
        let there = look(Release::V0_18_0, Stage::Settled, 40);
        let (old, new) = ("v0.17.0", "v0.18.0");
        let closed = |from, to, started, ended, by| UpdateRecord {
            completed: Some(at(ended)),
            ..superseded(from, to, started, by)
        };
        assert_eq!(
            there.history,
            [closed(old, new, 10, 20, old), closed(new, old, 20, 30, new), record_of(old, new, 30, Some(40))]
        );
        assert_eq!(there.observed_kube_virt_version.as_deref(), Some(new));
    }

    #[test]
    fn targets_that_come_and_go_are_remembered_within_the_bound() {
        let mut world = world(vec![]);
        for turn in 0..40 {
            let release = if turn % 2 == 0 { Release::V0_18_0 } else { Release::V0_17_0 };
            let plan = Plan { target: Some(InstallConfig::of(release)), ..an_update(Stage::Handlers) };
            let status = status(&world, &plan, at(turn));
            world.kubevirt.as_mut().unwrap().status = Some(status);
        }
        let history = world.kubevirt.unwrap().status.unwrap().history;
        let open = history.iter().filter(|record| record.completed.is_none()).count();
        assert_eq!((history.len(), open, history[9].started), (MAX_HISTORY, 1, at(39)));
    }

    #[test]
    fn it_is_available_while_a_pod_of_each_deployment_serves() {
        let available = |pods: &[(&str, bool)]| {
            let mut world = world(vec![]);
            world.pods = pods
                .iter()
                .map(|(component, ready)| Pod {
                    ready_since: ready.then(|| at(0)),
                    ..pod(component, component, "n")
                })
                .collect();
            let status = status(&world, &an_update(Stage::Settled), at(100));
            let condition = status.conditions.into_iter().find(|one| one.type_ == AVAILABLE).unwrap();
            condition.message.unwrap_or_default()
        };
        let (api, controller) = (("virt-api", true), ("virt-controller", true));
        assert_eq!(available(&[api, controller]), "All components are ready.");
        assert_eq!(available(&[api]), "No pod of virt-controller is ready.");
        assert_eq!(available(&[api, ("virt-controller", false)]), "No pod of virt-controller is ready.");
        assert_eq!(available(&[controller, ("virt-handler", true)]), "No pod of virt-api is ready.");
    }

    #[test]
    fn generations_are_those_of_our_own_objects() {
        let mut world = world(vec![]);
        let mut object = |kind: &str, name: &str, by: &str| {
            let body = json!({"metadata": {
                "generation": 3, "labels": {MANAGED_BY: by}, "annotations": {"kubevirt.io/manifest-hash": "h"},
            }});
            world.objects.insert(ObjectKey::namespaced("x/v1", kind, "kubevirt", name), body);
        };
        object("Deployment", "ours", MANAGED_BY_OPERATOR);
        object("Deployment", "theirs", "helm");
        object("Service", "ours", MANAGED_BY_OPERATOR);
        let expected = GenerationStatus {
            group: "apps".into(),
            resource: "deployments".into(),
            namespace: Some("kubevirt".into()),
            name: "ours".into(),
            last_generation: 3,
            hash: Some("h".into()),
        };
        assert_eq!(status(&world, &an_update(Stage::Handlers), at(100)).generations, [expected]);
    }

    #[test]
    fn a_kubevirt_object_that_is_not_carried_out_says_why() {
        let kubevirt = observed().kubevirt.unwrap();
        let said = |active: Option<&KubeVirt>| {
            let status = refused_duplicate(&kubevirt, active, "kubevirt", at(100));
            let [condition] = status.conditions.as_slice() else { panic!("{:?}", status.conditions) };
            (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default())
        };
        let another = ("ExistingDeployment".to_owned(), "There is an active KubeVirt deployment".to_owned());
        assert_eq!(said(Some(&kubevirt)), another);
        let (reason, message) = said(None);
        assert_eq!(reason, "WrongNamespace");
        assert!(message.starts_with("virt-operator runs in namespace kubevirt: "), "{message}");
    }
}
