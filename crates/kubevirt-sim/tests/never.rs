//! What must never happen: for each invariant a plan that breaks it, made by a planner that is wrong on purpose, and
//! the check that catches it. Sequences that no single plan shows are broken in the world and caught by the promise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_manifests::{Manifest, ManifestSet};
use kubevirt_rollout::invariants::Invariant;
use kubevirt_rollout::{Direction, Observed, Plan, Policy, Precondition, Stage, Step, check, plan_with};
use kubevirt_sim::{Cluster, Operator};
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};
use support::{condition, installed, settle};

const CRDS: &str = "apiextensions.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn workload(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced("apps/v1", kind, "kubevirt", name)
}

/// A view in the middle of an update, in a stage, and the right plan there.
fn in_stage(stage: Stage) -> (Cluster, Observed, Plan) {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    for _ in 0..600 {
        let (before, observed) = (cluster.clone(), cluster.observe());
        if let Some(outcome) = operator.second(&mut cluster).unwrap()
            && outcome.plan.stage == stage
        {
            return (before, observed, outcome.plan);
        }
        cluster.tick();
    }
    panic!("{stage} never came");
}

/// The target's manifest with this key, written over the live object.
fn apply(observed: &Observed, set: &ManifestSet, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> Step {
    let mut manifest = set.get(key).unwrap().clone();
    change(&mut manifest.body);
    Step::Apply { manifest, precondition: seen(observed, key) }
}

fn seen(observed: &Observed, key: &ObjectKey) -> Precondition {
    observed.objects.get(key).map_or(Precondition::Absent, |live| Precondition::Unchanged {
        uid: live["metadata"]["uid"].as_str().unwrap().to_owned(),
        resource_version: live["metadata"]["resourceVersion"].as_str().unwrap().to_owned(),
    })
}

fn delete(observed: &Observed, key: &ObjectKey) -> Step {
    let Precondition::Unchanged { uid, resource_version } = seen(observed, key) else {
        panic!("{key} lives")
    };
    Step::Delete { key: key.clone(), uid, resource_version }
}

/// Which invariants a plan with this one step breaks.
fn broken(cluster: &Cluster, observed: &Observed, plan: &Plan, step: Step) -> Vec<Invariant> {
    let plan = Plan { steps: vec![step], ..plan.clone() };
    match check(&plan, observed, &Policy::default(), cluster.now()) {
        Ok(()) => vec![],
        Err(violations) => violations.into_iter().map(|violation| violation.invariant).collect(),
    }
}

fn new_set(cluster: &Cluster, plan: &Plan) -> std::sync::Arc<ManifestSet> {
    cluster.manifests(plan.target.as_ref().unwrap())
}

#[test]
fn i3_virt_api_before_the_handlers() {
    let (cluster, observed, plan) = in_stage(Stage::Handlers);
    let set = new_set(&cluster, &plan);
    let step = apply(&observed, &set, &workload("Deployment", "virt-api"), |_| {});
    assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I3ApiNeverAhead]);
}

#[test]
fn i4_virt_api_with_a_gap() {
    let (cluster, observed, plan) = in_stage(Stage::Api);
    let set = new_set(&cluster, &plan);
    let key = workload("Deployment", "virt-api");
    for change in [
        |body: &mut Value| body["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = json!(1),
        |body: &mut Value| body["spec"]["replicas"] = json!(1),
    ] {
        let step = apply(&observed, &set, &key, change);
        assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I4ApiAlwaysServes]);
    }
    assert!(
        broken(&cluster, &observed, &plan, delete(&observed, &key)).contains(&Invariant::I4ApiAlwaysServes)
    );
}

#[test]
fn i5_a_launcher_pod_or_a_vm() {
    let (cluster, observed, plan) = in_stage(Stage::Handlers);
    let pod = ObjectKey::namespaced("v1", "Pod", "default", "virt-launcher-a-xyz");
    let steps = [
        Step::Delete { key: pod, uid: "u".into(), resource_version: "1".into() },
        Step::DeleteInstances {
            kind: "VirtualMachine".into(),
            plural: "virtualmachines".into(),
            version: "v1".into(),
        },
        Step::CleanNode {
            node: "node-1".into(),
            uid: "u".into(),
            resource_version: "1".into(),
            labels: vec![],
            annotations: vec![],
        },
    ];
    for step in steps {
        assert!(broken(&cluster, &observed, &plan, step).contains(&Invariant::I5NoWorkloadTouched));
    }
}

#[test]
fn i6_handlers_too_fast() {
    let (cluster, observed, plan) = in_stage(Stage::Handlers);
    let set = new_set(&cluster, &plan);
    let key = workload("DaemonSet", "virt-handler");
    for rolling in [
        json!({"maxUnavailable": 1, "maxSurge": 0}),
        json!({"maxUnavailable": 0, "maxSurge": 3}),
        json!({"maxUnavailable": 0, "maxSurge": "10%"}),
        json!({"maxUnavailable": 0, "maxSurge": "50%"}),
    ] {
        let step =
            apply(&observed, &set, &key, |body| body["spec"]["updateStrategy"]["rollingUpdate"] = rolling);
        assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I6CanaryFirst]);
    }
}

#[test]
fn i7_a_rule_that_an_old_pod_needs() {
    let (cluster, observed, plan) = in_stage(Stage::Controllers);
    let set = new_set(&cluster, &plan);
    let key = ObjectKey::cluster(RBAC, "ClusterRole", "kubevirt-controller");
    let step = apply(&observed, &set, &key, |_| {});
    assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I7OldRbacStands]);
    let gone = broken(&cluster, &observed, &plan, delete(&observed, &key));
    assert_eq!(gone, [Invariant::I7OldRbacStands, Invariant::I8NothingDeletedEarly]);
}

#[test]
fn i8_an_orphan_too_early() {
    let (cluster, observed, plan) = in_stage(Stage::Api);
    let key = ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api");
    assert_eq!(
        broken(&cluster, &observed, &plan, delete(&observed, &key)),
        [Invariant::I8NothingDeletedEarly]
    );
}

#[test]
fn i9_a_step_from_half_a_view() {
    let (cluster, mut observed, plan) = in_stage(Stage::Handlers);
    observed.synced = false;
    let step = plan.steps[0].clone();
    assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I9SyncedView]);
    let nothing =
        plan_with(&observed, &Policy::default(), cluster.now(), &|config| cluster.manifests(config));
    assert_eq!((nothing.direction, nothing.steps.len()), (Direction::Nothing, 0));
}

#[test]
fn i12_a_write_that_names_nothing_seen() {
    let (cluster, observed, plan) = in_stage(Stage::Handlers);
    let set = new_set(&cluster, &plan);
    let key = ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api");
    let manifest = set.get(&key).unwrap().clone();
    for precondition in [
        Precondition::Absent,
        Precondition::Unchanged { uid: "another".into(), resource_version: "1".into() },
    ] {
        let step = Step::Apply { manifest: manifest.clone(), precondition };
        assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::I12StaleStepFails]);
    }
}

#[test]
fn a_new_kind_without_a_guard_or_a_version_that_is_in_use() {
    let (cluster, mut observed, plan) = in_stage(Stage::Crds);
    let set = new_set(&cluster, &plan);
    let new =
        ObjectKey::cluster(CRDS, "CustomResourceDefinition", "virtualmachineinstancereplicasets.kubevirt.io");
    observed.guard_active = false;
    let step = apply(&observed, &set, &new, |_| {});
    assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::CrdsInUse]);
    let known = ObjectKey::cluster(CRDS, "CustomResourceDefinition", "virtualmachines.kubevirt.io");
    for index in [0, 1] {
        let step = apply(&observed, &set, &known, |body| {
            body["spec"]["versions"].as_array_mut().unwrap().remove(index);
        });
        assert_eq!(broken(&cluster, &observed, &plan, step), [Invariant::CrdsInUse], "version {index}");
    }
}

/// A release that is the target with one thing changed.
fn another_release(cluster: &Cluster, tag: &str, change: impl Fn(&mut Manifest)) -> ManifestSet {
    let mut config = kubevirt_manifests::InstallConfig::of(Release::V0_17_0);
    config.release = tag.parse().unwrap();
    let mut set = ManifestSet::clone(&cluster.manifests(&config));
    for manifest in &mut set.manifests {
        change(manifest);
        *manifest = manifest.clone().rehashed();
    }
    set
}

#[test]
fn a_version_that_is_renamed_in_place_is_refused_and_nothing_is_broken() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let before = cluster.contents();
    let set = another_release(&cluster, "v0.19.0", |manifest| {
        if manifest.key.name == "virtualmachines.kubevirt.io" {
            manifest.body["spec"]["versions"][0]["name"] = json!("v2");
        }
    });
    cluster.publish_manifests(set);
    cluster.set_image_tag(Some("v0.19.0"));
    settle(&mut operator, &mut cluster);
    assert_eq!(
        condition(&cluster, "Degraded").1,
        "An error occurred during deployment: CustomResourceDefinition virtualmachines.kubevirt.io: objects are stored \
         as version v1, and v0.19.0 has v2, v1alpha3 instead: changing a version in place is not supported, a release \
         must serve the old version beside the new one"
    );
    assert_eq!(condition(&cluster, "Available").0, "True");
    assert!(cluster.contents() == before);
}

#[test]
fn a_version_that_is_served_no_longer_goes_when_the_update_is_over() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let set = another_release(&cluster, "v0.19.0", |manifest| {
        if let Some(versions) = manifest.body["spec"]["versions"].as_array_mut() {
            versions.truncate(1);
        }
    });
    cluster.publish_manifests(set);
    cluster.set_image_tag(Some("v0.19.0"));
    let key = ObjectKey::cluster(CRDS, "CustomResourceDefinition", "virtualmachines.kubevirt.io");
    let served =
        |cluster: &Cluster| cluster.object(&key).unwrap()["spec"]["versions"].as_array().unwrap().len();
    let old = |cluster: &Cluster| cluster.serving("virt-api", &Release::V0_17_0);
    while served(&cluster) == 2 {
        operator.run(&mut cluster, 1).unwrap();
    }
    assert_eq!(old(&cluster), 0, "every old virt-api has gone before");
    settle(&mut operator, &mut cluster);
    support::assert_at(&cluster, &"v0.19.0".parse().unwrap());
}

#[test]
fn the_promise_notices_a_world_that_is_broken() {
    type Break = fn(&mut Cluster);
    let cases: [(&str, Break); 2] = [
        ("I7", |cluster| {
            let key = ObjectKey::cluster(RBAC, "ClusterRole", "kubevirt-handler");
            cluster.tamper(&key, "/rules", json!([]));
        }),
        ("may be used beside", |cluster| {
            let set = cluster.manifests(&kubevirt_manifests::InstallConfig::of(Release::V0_18_0));
            let crd =
                set.manifests.iter().find(|m| m.key.name.starts_with("virtualmachineinstancereplicasets"));
            let manifest = crd.unwrap().clone();
            cluster.write(&Step::Apply { manifest, precondition: Precondition::Absent }).unwrap();
        }),
    ];
    for (name, breaks) in cases {
        let (mut operator, mut cluster) = installed(Release::V0_17_0);
        operator.watch(&cluster).unwrap();
        breaks(&mut cluster);
        assert!(operator.watch(&cluster).unwrap_err().contains(name), "{name}");
    }
    let mut alone = Operator::default();
    alone.watch(&Cluster::new(1, Release::V0_17_0, 1)).unwrap();
}
