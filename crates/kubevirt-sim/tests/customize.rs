//! A change of `spec.customizeComponents` only: the release stays, the pods that it concerns are replaced with the same
//! care as in an update, and nobody else's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kubevirt_rollout::{Direction, Observed, Plan, Policy, Stage, WaitingOn};
use kubevirt_sim::{Cluster, Fault, Operator, say};
use kubevirt_types::kubevirt::CustomizeComponents;
use kubevirt_types::{ObjectKey, Release};
use serde_json::json;
use support::{assert_at, condition, installed_on, settle};

/// More than one surge of 10 % replaces at once.
const NODES: usize = 5;

fn patch(type_: &str, kind: &str, name: &str, text: &str) -> Option<CustomizeComponents> {
    let patch = json!({"type": type_, "resourceType": kind, "resourceName": name, "patch": text});
    Some(serde_json::from_value(json!({"patches": [patch]})).unwrap())
}

/// Makes virt-handler log more.
fn talkative() -> Option<CustomizeComponents> {
    Some(serde_json::from_value(json!({"flags": {"handler": {"v": "4"}}})).unwrap())
}

fn cluster(release: Release) -> (Operator, Cluster) {
    installed_on(NODES, release, 7)
}

/// The pods of the components by name.
fn pods(observed: &Observed, components: &[&str]) -> BTreeSet<String> {
    let wanted = observed.pods.iter().filter(|pod| components.contains(&pod.component.as_str()));
    wanted.map(|pod| pod.name.clone()).collect()
}

/// Nodes whose only virt-handler is none of these, by when that was so first.
#[derive(Default)]
struct Replaced(BTreeMap<String, Timestamp>);

impl Replaced {
    fn look(&mut self, cluster: &Cluster, old: &BTreeSet<String>) {
        let observed = cluster.observe();
        for node in cluster.nodes() {
            let mut here = observed.pods.iter().filter(|pod| {
                pod.component == "virt-handler"
                    && pod.node.as_ref() == Some(&node)
                    && pod.deleting_since.is_none()
            });
            if here.all(|pod| !old.contains(&pod.name)) {
                self.0.entry(node).or_insert(cluster.now());
            }
        }
    }
}

/// Lets the operator work, with the promise watched, until it is at the target and quiet. Its directions and stages.
fn work(
    operator: &mut Operator,
    cluster: &mut Cluster,
    mut each: impl FnMut(&Cluster, &Plan),
) -> BTreeSet<String> {
    let mut roads = BTreeSet::new();
    for _ in 0..1800 {
        let outcome = operator.reconcile(cluster, usize::MAX).unwrap();
        operator.watch(cluster).unwrap();
        each(cluster, &outcome.plan);
        let (direction, stage) = (outcome.plan.direction, outcome.plan.stage);
        if (direction, stage) == (Direction::Steady, Stage::Settled) && !outcome.changed {
            return roads;
        }
        if direction != Direction::Steady {
            roads.insert(format!("{direction:?}"));
        }
        cluster.tick();
    }
    panic!("it doesn't get there:\n{}", support::tail(cluster));
}

#[test]
fn a_customized_virt_handler_goes_to_one_node_first_and_nobody_else_moves() {
    let (mut operator, mut cluster) = cluster(Release::V0_18_0);
    let old = pods(&cluster.observe(), &["virt-handler"]);
    let others = pods(&cluster.observe(), &["virt-api", "virt-controller"]);
    cluster.customize(talkative());
    let mut replaced = Replaced::default();
    let roads = work(&mut operator, &mut cluster, |cluster, _| replaced.look(cluster, &old));
    assert_eq!(roads, ["SameVersion".to_owned()].into());
    assert_at(&cluster, &Release::V0_18_0);
    let after = cluster.observe();
    assert_eq!(pods(&after, &["virt-api", "virt-controller"]), others, "they were not concerned");
    assert!(pods(&after, &["virt-handler"]).is_disjoint(&old));
    let key = ObjectKey::namespaced("apps/v1", "DaemonSet", "kubevirt", "virt-handler");
    let args =
        cluster.object(&key).unwrap().pointer("/spec/template/spec/containers/0/args").unwrap().clone();
    assert_eq!(args[4], "--v=4");
    let mut times: Vec<Timestamp> = replaced.0.into_values().collect();
    times.sort();
    assert_eq!(times.len(), NODES);
    let alone = times[1].duration_since(times[0]);
    say(&format!(
        "customize: the first node had the new virt-handler {} s before the second",
        alone.as_secs()
    ));
    assert!(alone >= Policy::default().soak, "the canary was alone for {alone:#} only");

    cluster.customize(None);
    let roads = work(&mut operator, &mut cluster, |_, _| ());
    assert_eq!(roads, ["SameVersion".to_owned()].into());
    let live = cluster.object(&key).unwrap();
    assert_eq!(live.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap().len(), 4);
}

#[test]
fn a_cosmetic_edit_rolls_nothing() {
    let (mut operator, mut cluster) = cluster(Release::V0_18_0);
    cluster.customize(patch(
        "merge",
        "DaemonSet",
        "virt-handler",
        r#"{"spec": {"template": {"spec": {"nodeSelector": {"b": "1", "a": "2"}}}}}"#,
    ));
    work(&mut operator, &mut cluster, |_, _| ());
    let all = ["virt-api", "virt-controller", "virt-handler"];
    let before = pods(&cluster.observe(), &all);
    let id = |cluster: &Cluster| {
        cluster.kubevirt().unwrap().status.clone().unwrap().observed_deployment_id.unwrap()
    };
    let mut ids = BTreeSet::from([id(&cluster)]);
    let yaml = "
        spec:
          template:
            spec:
              nodeSelector: {a: '2', b: '1'}
    ";
    let noted = "{metadata: {annotations: {note: hello}}}";
    let edits =
        [patch("merge", "daemonset", "*", yaml), patch("strategic", "DaemonSet", "virt-handler", yaml), {
            let mut customize = patch("strategic", "DaemonSet", "virt-handler", yaml).unwrap();
            customize.patches.extend(patch("merge", "*", "*", noted).unwrap().patches);
            Some(customize)
        }];
    for edit in edits {
        cluster.customize(edit);
        let log = cluster.log.len();
        let roads = work(&mut operator, &mut cluster, |_, _| ());
        assert_eq!(pods(&cluster.observe(), &all), before, "{:?}", &cluster.log[log..]);
        assert_eq!(roads, ["SameVersion".to_owned()].into());
        assert!(ids.insert(id(&cluster)), "it is another deployment all the same, and the status says so");
    }
    let key = ObjectKey::namespaced("apps/v1", "Deployment", "kubevirt", "virt-api");
    assert_eq!(cluster.object(&key).unwrap()["metadata"]["annotations"]["note"], "hello");
}

#[test]
fn a_bad_patch_is_refused_and_nothing_changes() {
    let bad = [
        patch("json", "Deployment", "virt-api", r#"[{"op": "remove", "path": "/spec/none"}]"#),
        patch("merge", "DaemonSet", "virt-handler", "spec: {updateStrategy: {type: OnDelete}}"),
        patch("merge", "ClusterRole", "*", "rules: []"),
        Some(serde_json::from_value(json!({"flags": {"controller": {"launcher-image": "x"}}})).unwrap()),
    ];
    for customize in bad {
        let (mut operator, mut cluster) = installed_on(3, Release::V0_18_0, 7);
        let before = cluster.contents();
        let all = ["virt-api", "virt-controller", "virt-handler"];
        let running = pods(&cluster.observe(), &all);
        cluster.customize(customize);
        let plan = settle(&mut operator, &mut cluster);
        assert_eq!((plan.direction, plan.stage), (Direction::Nothing, Stage::Blocked));
        assert!(
            matches!(&plan.waiting_on[0], WaitingOn::Refused { cause } if cause.starts_with("spec.customizeComponents."))
        );
        let (status, message) = condition(&cluster, "Degraded");
        assert_eq!(status, "True");
        assert!(
            message.starts_with("An error occurred during deployment: spec.customizeComponents."),
            "{message}"
        );
        assert_eq!(condition(&cluster, "Available").0, "True");
        assert!(cluster.contents() == before, "nothing changes");
        let key = ObjectKey::namespaced("apps/v1", "Deployment", "kubevirt", "virt-controller");
        cluster.tamper(&key, "/spec/replicas", json!(1));
        settle(&mut operator, &mut cluster);
        assert!(cluster.contents() == before, "what runs is kept as it is meanwhile");
        cluster.customize(None);
        settle(&mut operator, &mut cluster);
        assert_eq!(condition(&cluster, "Degraded").0, "False");
        assert_eq!(
            pods(&cluster.observe(), &["virt-api", "virt-handler"]),
            running.iter().filter(|name| !name.starts_with("virt-controller")).cloned().collect()
        );
    }
}

#[test]
fn a_customization_that_breaks_virt_handler_is_taken_back_after_one_node() {
    let (mut operator, mut cluster) = cluster(Release::V0_18_0);
    let old = pods(&cluster.observe(), &["virt-handler"]);
    cluster.inject_image("kubevirt/virt-handler:mine", None, Fault::Crashes);
    let image = r#"{"spec": {"template": {"spec": {"containers": [{"name": "virt-handler", "image": "kubevirt/virt-handler:mine"}]}}}}"#;
    cluster.customize(patch("strategic", "DaemonSet", "virt-handler", image));
    let plan = settle(&mut operator, &mut cluster);
    let failed = plan.failed.expect("it is remembered");
    say(&format!("customize: {} failed: {}", failed.component, failed.cause));
    assert_eq!(failed.component, "virt-handler");
    assert!(
        old.is_subset(&pods(&cluster.observe(), &["virt-handler"])),
        "the old ones serve: none was replaced"
    );
    assert_eq!(condition(&cluster, "Available").0, "True");
    assert_eq!(cluster.serving("virt-handler", &Release::V0_18_0), NODES);
    let key = ObjectKey::namespaced("apps/v1", "DaemonSet", "kubevirt", "virt-handler");
    let image =
        cluster.object(&key).unwrap().pointer("/spec/template/spec/containers/0/image").unwrap().clone();
    assert_eq!(image, "kubevirt/virt-handler:v0.18.0");

    cluster.customize(None);
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert_eq!(condition(&cluster, "Degraded").0, "False");
}

#[test]
fn a_stored_strategy_is_only_ever_used_for_its_own_config() {
    let (mut operator, mut cluster) = installed_on(3, Release::V0_17_0, 7);
    let mut seen = BTreeSet::new();
    let mut look = |cluster: &Cluster| {
        for (id, stored) in cluster.observe().strategies {
            assert_eq!(stored.set.config.id(), id);
            seen.insert(id);
        }
    };
    look(&cluster);
    cluster.set_image_tag(Some("v0.18.0"));
    for customize in [talkative(), patch("merge", "*", "*", "{}"), patch("merge", "*", "*", " {}"), None] {
        cluster.customize(customize);
        work(&mut operator, &mut cluster, |cluster, _| look(cluster));
        assert_at(&cluster, &Release::V0_18_0);
    }
    assert_eq!(seen.len(), 5, "one of v0.17.0, four of v0.18.0");
}

#[test]
fn a_customization_in_the_middle_of_an_update_goes_along() {
    for seconds in [30, 110] {
        let (mut operator, mut cluster) = installed_on(3, Release::V0_17_0, 7);
        cluster.set_image_tag(Some("v0.18.0"));
        for _ in 0..seconds {
            operator.reconcile(&mut cluster, usize::MAX).unwrap();
            operator.watch(&cluster).unwrap();
            cluster.tick();
        }
        cluster.customize(talkative());
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &Release::V0_18_0);
        let key = ObjectKey::namespaced("apps/v1", "DaemonSet", "kubevirt", "virt-handler");
        let args =
            cluster.object(&key).unwrap().pointer("/spec/template/spec/containers/0/args").unwrap().clone();
        assert_eq!(args[4], "--v=4", "after {seconds} s");
    }
}
