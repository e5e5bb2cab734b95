//! Each invariant with its edges: the last thing that it allows and the first that it doesn't. The target is v0.18.0
//! and the time `at(1000)`, unless a case says otherwise.

use std::sync::Arc;

use kubevirt_manifests::{InstallConfig, Manifest, ManifestSet};
use kubevirt_types::labels;
use serde_json::{Map, Value, json};

use super::*;
use crate::fixture::{at, node, observed, pod};
use crate::observed::{Handle, StoredStrategy};
use crate::stage::guard::GUARD;
use crate::stages::Stage;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// How a plan with this one step breaks an invariant; none when it doesn't.
fn broken_in(direction: Direction, observed: &Observed, step: &Step, invariant: Invariant) -> Option<String> {
    let plan = Plan {
        direction,
        stage: Stage::Handlers,
        steps: vec![step.clone()],
        waiting_on: vec![],
        target: Some(InstallConfig::of(Release::V0_18_0)),
        failed: None,
    };
    let violations = check(&plan, observed, &Policy::default(), at(1000)).err().unwrap_or_default();
    violations.into_iter().find(|violation| violation.invariant == invariant).map(|found| found.detail)
}

fn broken(observed: &Observed, step: &Step, invariant: Invariant) -> Option<String> {
    broken_in(Direction::Update, observed, step, invariant)
}

/// Puts an object into the world, as `u` of resourceVersion 7.
fn live(observed: &mut Observed, mut body: Value) {
    (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) = (json!("u"), json!("7"));
    observed.objects.insert(ObjectKey::of(&body).unwrap(), body);
}

fn seen() -> Precondition {
    Precondition::Unchanged { uid: "u".into(), resource_version: "7".into() }
}

fn apply(body: Value) -> Step {
    Step::Apply { manifest: Manifest::plain(body), precondition: seen() }
}

fn delete(key: ObjectKey) -> Step {
    Step::Delete { key, uid: "u".into(), resource_version: "7".into() }
}

/// A component's workload, whose pods are of a release; its template's hash is `new`.
fn workload_of(component: Component, release: &str, more: Value) -> Value {
    let mut spec = json!({"template": {"metadata": {
        "labels": {labels::REPORT_VERSION: release}, "annotations": {labels::TEMPLATE_HASH: "new"},
    }}});
    let more: Map<String, Value> = serde_json::from_value(more).unwrap();
    spec.as_object_mut().unwrap().extend(more);
    let key = component.key("kubevirt");
    json!({
        "apiVersion": key.api_version, "kind": key.kind,
        "metadata": {"name": key.name, "namespace": "kubevirt"}, "spec": spec,
    })
}

fn pod_of(component: Component, release: Release) -> Pod {
    Pod { release: Some(release), ..pod(component.name(), &format!("{}-x", component.name()), "n1") }
}

fn stored(observed: &mut Observed, release: Release, manifests: Vec<Manifest>) {
    let config = InstallConfig::of(release);
    let key = ObjectKey::namespaced("v1", "ConfigMap", "kubevirt", &config.id());
    let handle = Handle { key, uid: "s".into(), resource_version: "1".into() };
    let id = config.id();
    observed
        .strategies
        .insert(id, StoredStrategy { handle, set: Arc::new(ManifestSet { config, manifests }) });
}

/// A world in which one virt-handler is of the previous release, so that releases are mixed.
fn mixed() -> Observed {
    let mut observed = observed();
    observed.nodes = vec![node("n1")];
    observed.pods = vec![pod_of(Component::Handler, Release::V0_17_0)];
    observed
}

#[test]
fn i3_virt_api_is_never_ahead() {
    let broken = |pods: Vec<Pod>, not_ready: Option<i64>, had: Option<&str>, rolled: Component, to: &str| {
        let mut observed = observed();
        observed.nodes = vec![node("n1")];
        observed.nodes[0].not_ready_since = not_ready.map(at);
        observed.pods = pods;
        if let Some(had) = had {
            live(&mut observed, workload_of(rolled, had, json!({})));
        }
        broken(&observed, &apply(workload_of(rolled, to, json!({}))), Invariant::I3ApiNeverAhead)
    };
    let (old, new) = (Release::V0_17_0, Release::V0_18_0);
    let api = |pods, not_ready, had| broken(pods, not_ready, had, Component::Api, "v0.18.0");
    let ahead = Some("virt-api would be v0.18.0 beside v0.17.0".to_owned());
    let was = Some("v0.17.0");
    for slow in [Component::Handler, Component::Controller] {
        assert_eq!(api(vec![pod_of(slow, old.clone())], None, was), ahead);
    }
    let handler = || pod_of(Component::Handler, old.clone());
    assert_eq!(api(vec![pod_of(Component::Handler, new.clone())], None, was), None);
    assert_eq!(api(vec![pod_of(Component::Api, old.clone())], None, was), None, "it is what rolls");
    assert_eq!(api(vec![Pod { release: None, ..handler() }], None, was), None);
    assert_eq!(api(vec![Pod { deleting_since: Some(at(999)), ..handler() }], None, was), None, "it goes");
    assert_eq!(api(vec![handler()], Some(941), was), ahead, "its node may come back");
    assert_eq!(api(vec![handler()], Some(940), was), None, "its node is lost");
    assert_eq!(api(vec![handler()], None, Some("v0.18.0")), None, "it is so already");
    assert_eq!(api(vec![handler()], None, None), None, "there was none before");

    let back = |pod: Pod, rolled| broken(vec![pod], None, Some("v0.18.0"), rolled, "v0.17.0");
    for rolled in [Component::Handler, Component::Controller] {
        let behind = format!("{} would be v0.17.0 beside virt-api v0.18.0", rolled.name());
        assert_eq!(back(pod_of(Component::Api, new.clone()), rolled), Some(behind));
        assert_eq!(back(pod_of(Component::Api, old.clone()), rolled), None);
    }
    assert_eq!(back(pod_of(Component::Controller, new), Component::Handler), None);
}

#[test]
fn i4_ready_virt_apis_never_get_fewer() {
    let mut observed = observed();
    let spec = |unavailable: Value, replicas: Value| json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxUnavailable": unavailable}}});
    let of = |component, spec| apply(workload_of(component, "v0.18.0", spec));
    let api = |unavailable, replicas| of(Component::Api, spec(unavailable, replicas));
    let broken = |observed: &Observed, step| broken(observed, &step, Invariant::I4ApiAlwaysServes);
    for (had, wanted, breaks) in [
        (Some(2), json!(2), None),
        (Some(2), json!(1), Some("replicas would be 1")),
        (Some(2), json!(null), Some("replicas would be null")),
        (Some(3), json!(2), None),
        (Some(1), json!(1), None),
        (Some(1), json!(null), None),
        (None, json!(1), None),
    ] {
        observed.objects.clear();
        if let Some(had) = had {
            live(&mut observed, workload_of(Component::Api, "v0.18.0", spec(json!(0), json!(had))));
        }
        let found = broken(&observed, api(json!(0), wanted.clone()));
        assert_eq!(found.as_deref(), breaks, "{had:?} {wanted}");
    }
    assert_eq!(broken(&observed, api(json!(1), json!(2))).as_deref(), Some("maxUnavailable would be 1"));
    assert_eq!(
        broken(&observed, api(json!("0%"), json!(2))).as_deref(),
        Some("maxUnavailable would be \"0%\"")
    );
    assert_eq!(broken(&observed, of(Component::Controller, spec(json!(1), json!(1)))), None);
    let gone = |component: Component| delete(component.key("kubevirt"));
    assert_eq!(broken(&observed, gone(Component::Api)).as_deref(), Some("virt-api would be deleted"));
    assert_eq!(broken(&observed, gone(Component::Controller)), None);
    let uninstall =
        broken_in(Direction::Uninstall, &observed, &gone(Component::Api), Invariant::I4ApiAlwaysServes);
    assert_eq!(uninstall, None);
}

#[test]
fn i5_pods_and_objects_of_our_kinds_are_left_alone() {
    let observed = observed();
    let object = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
    let vm = ObjectKey::namespaced("kubevirt.io/v1", "VirtualMachine", "n", "x");
    let migrate = Step::MigrateStorage {
        crd: ObjectKey::cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "x"),
        kind: "VirtualMachine".into(),
        plural: "virtualmachines".into(),
        version: "v1".into(),
        uid: "u".into(),
        resource_version: "7".into(),
    };
    let clean = Step::CleanNode {
        node: "n1".into(),
        uid: "u".into(),
        resource_version: "7".into(),
        labels: vec![],
        annotations: vec![],
    };
    let every = Step::DeleteInstances { kind: "VM".into(), plural: "vms".into(), version: "v1".into() };
    let finalizer =
        Step::AddFinalizer { finalizer: "f".into(), uid: "u".into(), resource_version: "7".into() };
    let cases = [
        (apply(object("v1", "Pod")), Some("Pod x would be touched")),
        (apply(object("kubevirt.io/v1", "VirtualMachine")), Some("VirtualMachine x would be touched")),
        (apply(object("v1", "ConfigMap")), None),
        (delete(vm), Some("VirtualMachine n/x would be touched")),
        (delete(ObjectKey::cluster("v1", "ConfigMap", "x")), None),
        (migrate, None),
        (finalizer, None),
        (clean, Some("node n1 would be touched")),
        (every, Some("VM would be touched")),
    ];
    for (step, breaks) in cases {
        let found = |direction| broken_in(direction, &observed, &step, Invariant::I5NoWorkloadTouched);
        assert_eq!(found(Direction::Update).as_deref(), breaks, "{step}");
        assert_eq!(found(Direction::Uninstall), None, "{step}");
    }
}

/// A virt-handler on each of so many nodes, of another template than the target's and Ready.
fn handlers(count: usize) -> Observed {
    let mut observed = observed();
    let name = |n: usize| format!("n{n}");
    observed.nodes = (0..count).map(|n| node(&name(n))).collect();
    observed.pods = (0..count)
        .map(|n| Pod {
            template_hash: Some("old".into()),
            ready_since: Some(at(0)),
            ..pod("virt-handler", &format!("old-{n}"), &name(n))
        })
        .collect();
    observed
}

/// Makes the virt-handler of the first node the target's, Ready since then.
fn with_canary(mut observed: Observed, ready: i64) -> Observed {
    observed.pods[0] = Pod {
        template_hash: Some("new".into()),
        ready_since: Some(at(ready)),
        ..pod("virt-handler", "canary", "n0")
    };
    observed
}

fn rolling(surge: Value, ready_seconds: i64) -> Step {
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": surge}});
    let spec = json!({"minReadySeconds": ready_seconds, "updateStrategy": strategy});
    apply(workload_of(Component::Handler, "v0.18.0", spec))
}

#[test]
fn i6_one_node_first_and_then_a_tenth_of_them() {
    let broken = |observed: &Observed, step: &Step| broken(observed, step, Invariant::I6CanaryFirst);
    let (one, many) = (rolling(json!(1), 40), rolling(json!(2), 0));
    let early = |surge: u8, seconds: i64| {
        Some(format!("maxSurge would be {surge} and minReadySeconds {seconds} before a canary is healthy"))
    };
    let nothing_new = handlers(20);
    assert_eq!(broken(&nothing_new, &one), None);
    assert_eq!(broken(&nothing_new, &rolling(json!(1), 39)), early(1, 39));
    assert_eq!(broken(&nothing_new, &rolling(json!(2), 40)), early(2, 40));
    let mut patient = handlers(20);
    patient.kubevirt.as_mut().unwrap().spec =
        serde_json::from_value(json!({"updateStrategy": {"soakSeconds": 100}})).unwrap();
    assert_eq!(broken(&patient, &one), early(1, 40));
    assert_eq!(broken(&patient, &rolling(json!(1), 100)), None);

    assert_eq!(broken(&with_canary(handlers(20), 960), &many), None);
    assert_eq!(broken(&with_canary(handlers(20), 961), &many), early(2, 0), "it has to soak");
    assert_eq!(broken(&with_canary(patient, 960), &many), early(2, 0));
    let but = |change: &dyn Fn(&mut Observed)| {
        let mut observed = with_canary(handlers(20), 960);
        change(&mut observed);
        broken(&observed, &many)
    };
    assert_eq!(but(&|observed| observed.pods[0].deleting_since = Some(at(999))), early(2, 0));
    assert_eq!(but(&|observed| observed.pods[0].ready_since = None), early(2, 0));
    assert_eq!(but(&|observed| observed.nodes[0].not_ready_since = Some(at(999))), early(2, 0));
    let beside = |observed: &mut Observed| {
        observed.pods.push(Pod { template_hash: Some("old".into()), ..pod("virt-handler", "beside", "n0") });
    };
    assert_eq!(but(&beside), early(2, 0), "its predecessor is in charge of the node");
    let handed_over = |observed: &mut Observed| {
        beside(observed);
        observed.pods[20].deleting_since = Some(at(999));
    };
    assert_eq!(but(&handed_over), None);

    let nobody_else = |change: &dyn Fn(&mut Observed)| {
        let mut observed = handlers(20);
        change(&mut observed);
        broken(&observed, &many)
    };
    let all_new = |observed: &mut Observed| {
        observed.pods.iter_mut().for_each(|pod| pod.template_hash = Some("new".into()));
    };
    assert_eq!(nobody_else(&all_new), None);
    let all_going = |observed: &mut Observed| {
        observed.pods.iter_mut().for_each(|pod| pod.deleting_since = Some(at(999)));
    };
    assert_eq!(nobody_else(&all_going), None);
    let all_away = |observed: &mut Observed| {
        observed.nodes.iter_mut().for_each(|node| node.not_ready_since = Some(at(999)));
    };
    assert_eq!(nobody_else(&all_away), None);

    assert_eq!(broken(&with_canary(handlers(11), 0), &many), None);
    let too_many = |surge: usize, nodes: usize| Some(format!("maxSurge would be {surge} on {nodes} nodes"));
    assert_eq!(broken(&with_canary(handlers(10), 0), &many), too_many(2, 10));
    assert_eq!(broken(&with_canary(handlers(20), 0), &rolling(json!(3), 0)), too_many(3, 20));
    assert_eq!(broken(&observed(), &one), None, "the first one of all");
}

#[test]
fn i6_no_virt_handler_is_unavailable_and_none_goes_by_itself() {
    let observed = handlers(20);
    let with = |component: Component, strategy: Value| {
        let spec = json!({"minReadySeconds": 40, "updateStrategy": strategy});
        broken(&observed, &apply(workload_of(component, "v0.18.0", spec)), Invariant::I6CanaryFirst)
    };
    let rolling = |unavailable: Value, surge: Value| json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
    assert_eq!(with(Component::Handler, json!({"type": "OnDelete"})), None);
    assert_eq!(with(Component::Handler, rolling(json!(0), json!(1))), None);
    let says = |text: &str| Some(text.to_owned());
    assert_eq!(with(Component::Handler, rolling(json!(1), json!(1))), says("maxUnavailable would be 1"));
    assert_eq!(with(Component::Handler, rolling(json!(0), json!("9%"))), says("maxSurge would be \"9%\""));
    assert_eq!(with(Component::Api, rolling(json!(1), json!(1))), None);
}

#[test]
fn i7_what_an_old_pod_may_do_it_may_go_on_doing() {
    let role = |kind: &str, list: &str, entries: &[&str]| json!({"apiVersion": RBAC, "kind": kind, "metadata": {"name": "x"}, list: entries});
    let broken_of = |kind: &str, list: &str, change: &dyn Fn(&mut Observed), entries: &[&str]| {
        let mut observed = mixed();
        live(&mut observed, role(kind, list, &["a", "b", "c"]));
        stored(&mut observed, Release::V0_17_0, vec![Manifest::plain(role(kind, list, &["a", "b"]))]);
        change(&mut observed);
        broken(&observed, &apply(role(kind, list, entries)), Invariant::I7OldRbacStands)
    };
    let rules = |change: &dyn Fn(&mut Observed), entries| broken_of("ClusterRole", "rules", change, entries);
    let lost = Some("rules would lose \"b\"".to_owned());
    assert_eq!(rules(&|_| {}, &["a", "b"]), None, "nobody in play needs c");
    assert_eq!(rules(&|_| {}, &["a"]), lost);
    assert_eq!(rules(&|_| {}, &["a", "d"]), lost);
    let subjects = broken_of("RoleBinding", "subjects", &|_| {}, &["a"]);
    assert_eq!(subjects.as_deref(), Some("subjects would lose \"b\""));
    assert_eq!(broken_of("Service", "rules", &|_| {}, &["a"]), None);

    let told =
        |second: i64| move |observed: &mut Observed| observed.pods[0].deleting_since = Some(at(second));
    assert_eq!(rules(&told(981), &["a"]), lost, "it hands over");
    assert_eq!(rules(&told(980), &["a"]), None, "it has handed over");
    let away = |observed: &mut Observed| {
        told(0)(observed);
        observed.nodes[0].not_ready_since = Some(at(10));
    };
    assert_eq!(rules(&away, &["a"]), lost, "nobody has told it");
    assert_eq!(rules(&|observed| observed.pods[0].release = Some(Release::V0_18_0), &["a"]), None);
    let made_still = |observed: &mut Observed| {
        observed.pods.clear();
        live(observed, workload_of(Component::Controller, "v0.17.0", json!({})));
    };
    assert_eq!(rules(&made_still, &["a"]), None, "no pod of it acts");

    let mut observed = mixed();
    live(&mut observed, role("ClusterRole", "rules", &["a"]));
    let gone = delete(ObjectKey::cluster(RBAC, "ClusterRole", "x"));
    let deleted = |observed: &Observed, direction| {
        broken_in(direction, observed, &gone, Invariant::I7OldRbacStands).is_some()
    };
    assert!(deleted(&observed, Direction::Update));
    assert!(!deleted(&observed, Direction::Uninstall));
    made_still(&mut observed);
    assert!(deleted(&observed, Direction::Update), "such pods are made still");
    observed.objects.retain(|key, _| key.kind == "ClusterRole");
    assert!(!deleted(&observed, Direction::Update));
}

#[test]
fn i8_nothing_is_deleted_while_releases_are_mixed() {
    let config_map = delete(ObjectKey::cluster("v1", "ConfigMap", "x"));
    let early = Some("it would be deleted before everything is v0.18.0".to_owned());
    let rule = Invariant::I8NothingDeletedEarly;
    assert_eq!(broken(&mixed(), &config_map, rule), early);
    assert_eq!(broken_in(Direction::Uninstall, &mixed(), &config_map, rule), None);
    assert_eq!(broken(&mixed(), &delete(ObjectKey::cluster("batch/v1", "Job", "x")), rule), None);
    let guard = ObjectKey::cluster("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", GUARD);
    assert_eq!(broken(&mixed(), &delete(guard), rule), None);
    let mut over = mixed();
    over.pods[0].release = Some(Release::V0_18_0);
    live(&mut over, workload_of(Component::Api, "v0.18.0", json!({})));
    assert_eq!(broken(&over, &config_map, rule), None);
    live(&mut over, workload_of(Component::Api, "v0.17.0", json!({})));
    assert_eq!(broken(&over, &config_map, rule), early, "a workload makes old pods still");
    let mut unknown = mixed();
    unknown.pods[0].release = None;
    assert_eq!(broken(&unknown, &config_map, rule), early, "who can't tell its release may be an old one");
}

#[test]
fn i12_a_write_names_what_was_seen() {
    let mut observed = observed();
    let config_map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    live(&mut observed, config_map("there"));
    let step = |form: &str, name: &str, uid: &str, version: &str| {
        let manifest = Manifest::plain(config_map(name));
        let (key, uid, resource_version) = (manifest.key.clone(), uid.to_owned(), version.to_owned());
        match form {
            "create" => Step::Apply { manifest, precondition: Precondition::Absent },
            "apply" => {
                Step::Apply { manifest, precondition: Precondition::Unchanged { uid, resource_version } }
            }
            "delete" => Step::Delete { key, uid, resource_version },
            _ => Step::MigrateStorage {
                crd: key,
                kind: "K".into(),
                plural: "ks".into(),
                version: "v1".into(),
                uid,
                resource_version,
            },
        }
    };
    let found = |form, name, uid, version| {
        broken(&observed, &step(form, name, uid, version), Invariant::I12StaleStepFails)
    };
    assert_eq!(found("create", "gone", "", ""), None);
    assert_eq!(found("create", "there", "", "").as_deref(), Some("it exists"));
    let stale = Some("its precondition is not what was seen");
    for form in ["apply", "delete", "migrate"] {
        for (name, uid, version, breaks) in [
            ("there", "u", "7", None),
            ("there", "u", "8", stale),
            ("there", "v", "7", stale),
            ("gone", "u", "7", None),
            ("gone", "", "7", stale),
            ("gone", "u", "", stale),
        ] {
            assert_eq!(found(form, name, uid, version).as_deref(), breaks, "{form} {name} {uid} {version}");
        }
    }
}

/// A CRD with versions: name, served, storage.
fn crd(versions: &[(&str, bool, bool)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(name, served, storage)| json!({"name": name, "served": served, "storage": storage}))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "x"}, "spec": {"versions": versions},
    })
}

#[test]
fn crds_keep_what_is_stored_and_what_is_served_to_old_pods() {
    let crds_broken = |observed: &mut Observed, wanted: &[(&str, bool, bool)]| {
        let mut had = crd(&[("v1", true, true), ("v1beta1", true, false), ("v1alpha1", false, false)]);
        had["status"]["storedVersions"] = json!(["v1"]);
        live(observed, had);
        broken(observed, &apply(crd(wanted)), Invariant::CrdsInUse)
    };
    let mut over = observed();
    let all = [("v1", true, true), ("v1beta1", true, false)];
    assert_eq!(crds_broken(&mut mixed(), &all), None, "nobody was served v1alpha1");
    assert_eq!(
        crds_broken(&mut mixed(), &all[..1]).as_deref(),
        Some("served version v1beta1 would be dropped")
    );
    assert_eq!(
        crds_broken(&mut mixed(), &[("v1", true, true), ("v1beta1", false, false)]).as_deref(),
        Some("served version v1beta1 would be dropped")
    );
    assert_eq!(crds_broken(&mut over, &all[..1]), None);
    let lost = Some("version v1, in which objects are stored, would be dropped");
    assert_eq!(crds_broken(&mut over, &all[1..]).as_deref(), lost);
    assert_eq!(crds_broken(&mut over, &[("v1", false, false), ("v1beta1", true, true)]), None);
    let mut other = crd(&all[1..]);
    (other["kind"], other["apiVersion"]) = (json!("ConfigMap"), json!("v1"));
    assert_eq!(broken(&over, &apply(other), Invariant::CrdsInUse), None);
}

#[test]
fn a_new_kind_is_guarded_while_a_release_that_lacks_it_is_in_play() {
    let broken = |change: &dyn Fn(&mut Observed), has_it: bool| {
        let mut observed = mixed();
        let manifests = if has_it { vec![Manifest::plain(crd(&[]))] } else { vec![] };
        stored(&mut observed, Release::V0_17_0, manifests);
        change(&mut observed);
        let step = Step::Apply { manifest: Manifest::plain(crd(&[])), precondition: Precondition::Absent };
        broken(&observed, &step, Invariant::CrdsInUse)
    };
    let open = Some("a new kind would be open before the update is over".to_owned());
    assert_eq!(broken(&|_| {}, false), open);
    assert_eq!(broken(&|_| {}, true), None);
    assert_eq!(broken(&|observed| observed.guard_active = true, false), None);
    assert_eq!(broken(&|observed| observed.pods.clear(), false), None, "nothing is mixed");
    let others = |observed: &mut Observed| observed.pods[0].release = Some("v0.16.0".parse().unwrap());
    assert_eq!(broken(&others, false), None, "its manifest set isn't of who is in play");
    let only_the_targets = |observed: &mut Observed| {
        observed.pods.push(pod_of(Component::Controller, Release::V0_18_0));
        observed.strategies.clear();
        stored(observed, Release::V0_18_0, vec![]);
    };
    assert_eq!(broken(&only_the_targets, false), None);
}

#[test]
fn objects_are_only_said_to_be_stored_as_what_is_stored() {
    let mut observed = observed();
    live(&mut observed, crd(&[("v1", true, true), ("v1beta1", true, false)]));
    let found = |name: &str, version: &str| {
        let step = Step::MigrateStorage {
            crd: ObjectKey::cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", name),
            kind: "K".into(),
            plural: "ks".into(),
            version: version.into(),
            uid: "u".into(),
            resource_version: "7".into(),
        };
        broken(&observed, &step, Invariant::CrdsInUse)
    };
    assert_eq!(found("x", "v1"), None);
    for version in ["v1beta1", "v2"] {
        let said = format!("objects would be taken to be stored as {version}, and aren't");
        assert_eq!(found("x", version), Some(said));
    }
    assert_eq!(found("y", "v2"), None);
}

#[test]
fn a_violation_names_the_invariant_the_step_and_how() {
    let mut observed = observed();
    observed.synced = false;
    let plan = Plan {
        direction: Direction::Update,
        stage: Stage::Orphans,
        steps: vec![delete(ObjectKey::cluster("v1", "ConfigMap", "x")); 2],
        waiting_on: vec![],
        target: None,
        failed: None,
    };
    let violations = check(&plan, &observed, &Policy::default(), at(0)).unwrap_err();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["I9SyncedView: delete ConfigMap x: the view is not synced"; 2]);
}
