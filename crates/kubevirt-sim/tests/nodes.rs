//! Nodes that fail, come back, come, go and are cordoned while an update goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_rollout::{Direction, Plan};
use kubevirt_sim::{Cluster, Operator, say};
use kubevirt_types::{ObjectKey, Release};
use support::{assert_at, condition, has_only, installed_on, settle, tail};

const NEW: Release = Release::V0_18_0;
const OLD: Release = Release::V0_17_0;

fn observed_version(cluster: &Cluster) -> Option<String> {
    cluster.kubevirt().unwrap().status.clone().unwrap().observed_kube_virt_version
}

/// Works until the status says that the target is reached. How many seconds that took.
fn until_over(operator: &mut Operator, cluster: &mut Cluster, release: &Release, limit: i64) -> i64 {
    let start = cluster.now();
    while observed_version(cluster) != Some(release.to_string()) {
        operator.run(cluster, 1).unwrap_or_else(|broken| panic!("{broken}\n{}", tail(cluster)));
        let seconds = cluster.now().duration_since(start).as_secs();
        assert!(seconds < limit, "after {seconds} s: {}", condition(cluster, "Progressing").1);
    }
    cluster.now().duration_since(start).as_secs()
}

/// The rules that only the old release needs still stand.
fn old_rules_stand(cluster: &Cluster) -> bool {
    let old = cluster.manifests(&kubevirt_manifests::InstallConfig::of(OLD));
    old.manifests.iter().filter(|manifest| manifest.body.get("rules").is_some()).all(|manifest| {
        let live = cluster.object(&manifest.key).map(|live| live["rules"].as_array().unwrap());
        let rules = manifest.body["rules"].as_array().unwrap();
        live.is_some_and(|live| rules.iter().all(|rule| live.contains(rule)))
    })
}

fn steady(plan: &Plan) -> bool {
    plan.direction == Direction::Steady
}

/// A node falls silent so many seconds after the patch. The update ends without it, says so, keeps what its old pod
/// needs, and finishes it when it is back.
fn lost_at(nodes: usize, seconds: usize, seed: u64) -> (i64, i64) {
    let (mut operator, mut cluster) = installed_on(nodes, OLD, seed);
    cluster.set_image_tag(Some(&NEW.to_string()));
    operator.run(&mut cluster, seconds).unwrap();
    cluster.lose_node("node-1");
    let without = until_over(&mut operator, &mut cluster, &NEW, 1200);
    operator.run(&mut cluster, 30).unwrap();
    let handlers = cluster.observe().pods.into_iter().filter(|pod| pod.component == "virt-handler");
    let old_there = handlers.into_iter().any(|pod| pod.release == Some(OLD));
    if old_there {
        let said = condition(&cluster, "Degraded").1;
        assert!(said.contains("node-1"), "the node is named: {said}");
        assert!(old_rules_stand(&cluster), "its pod needs them when it is back");
    }
    cluster.return_node("node-1");
    let start = cluster.now();
    while !has_only(&cluster, "node-1", &NEW) {
        operator.run(&mut cluster, 1).unwrap_or_else(|broken| panic!("{broken}\n{}", tail(&cluster)));
        let waited = cluster.now().duration_since(start).as_secs();
        assert!(waited < 600, "back for {waited} s: {}", condition(&cluster, "Progressing").1);
    }
    let finished = cluster.now().duration_since(start).as_secs();
    let plan = settle(&mut operator, &mut cluster);
    assert!(steady(&plan), "{plan:#?}");
    assert_at(&cluster, &NEW);
    assert!(!old_rules_stand(&cluster), "when nobody needs them they go");
    assert_eq!(condition(&cluster, "Degraded").0, "False");
    (without, finished)
}

#[test]
fn an_update_ends_without_a_lost_node_and_finishes_it_when_it_is_back() {
    lost_at_each(&[(3, 0, 1), (3, 15, 2)]);
}

#[test]
fn an_update_ends_without_a_node_that_is_lost_later() {
    lost_at_each(&[(3, 50, 3), (3, 90, 4), (3, 150, 5), (12, 100, 6)]);
}

/// Nodes, when one is lost, seed.
fn lost_at_each(cases: &[(usize, usize, u64)]) {
    for &(nodes, seconds, seed) in cases {
        let (without, finished) = lost_at(nodes, seconds, seed);
        say(&format!(
            "{nodes} nodes, one lost {seconds} s after the patch: over {without} s later, finished {finished} s after \
             its return"
        ));
    }
}

#[test]
fn an_update_begins_and_ends_while_a_node_is_lost() {
    let (mut operator, mut cluster) = installed_on(3, OLD, 3);
    cluster.lose_node("node-2");
    operator.run(&mut cluster, 150).unwrap();
    cluster.set_image_tag(Some(&NEW.to_string()));
    until_over(&mut operator, &mut cluster, &NEW, 900);
    assert!(old_rules_stand(&cluster));
    cluster.return_node("node-2");
    operator.run(&mut cluster, 10).unwrap();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &NEW);
}

#[test]
fn a_lost_node_that_is_removed_is_forgotten() {
    let (mut operator, mut cluster) = installed_on(3, OLD, 1);
    cluster.lose_node("node-3");
    operator.run(&mut cluster, 50).unwrap();
    cluster.set_image_tag(Some(&NEW.to_string()));
    until_over(&mut operator, &mut cluster, &NEW, 900);
    cluster.remove_node("node-3");
    let plan = settle(&mut operator, &mut cluster);
    assert!(steady(&plan));
    assert_at(&cluster, &NEW);
    assert!(!old_rules_stand(&cluster));
    assert_eq!(condition(&cluster, "Degraded").0, "False");
}

#[test]
fn a_node_that_is_silent_for_a_moment_is_waited_for() {
    let (mut operator, mut cluster) = installed_on(3, OLD, 1);
    cluster.set_image_tag(Some(&NEW.to_string()));
    operator.run(&mut cluster, 20).unwrap();
    cluster.lose_node("node-1");
    operator.run(&mut cluster, 60).unwrap();
    cluster.return_node("node-1");
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &NEW);
}

#[test]
fn nodes_come_go_and_are_cordoned_while_an_update_goes_on() {
    for at in [5, 60, 140] {
        let (mut operator, mut cluster) = installed_on(4, OLD, 1);
        cluster.set_image_tag(Some(&NEW.to_string()));
        operator.run(&mut cluster, at).unwrap();
        cluster.add_node("node-9");
        cluster.cordon("node-2", true);
        operator.run(&mut cluster, 10).unwrap();
        cluster.remove_node("node-4");
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &NEW);
        assert!(has_only(&cluster, "node-9", &NEW) && has_only(&cluster, "node-2", &NEW), "at {at} s");
    }
}

#[test]
fn a_rollback_ends_without_a_lost_node_too() {
    let (mut operator, mut cluster) = installed_on(3, NEW, 1);
    cluster.set_image_tag(Some(&OLD.to_string()));
    operator.run(&mut cluster, 20).unwrap();
    cluster.lose_node("node-2");
    until_over(&mut operator, &mut cluster, &OLD, 1200);
    cluster.return_node("node-2");
    operator.run(&mut cluster, 10).unwrap();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &OLD);
}

#[test]
fn with_every_node_lost_nothing_is_broken_and_the_update_goes_on_afterwards() {
    let (mut operator, mut cluster) = installed_on(2, OLD, 1);
    cluster.set_image_tag(Some(&NEW.to_string()));
    operator.run(&mut cluster, 25).unwrap();
    for node in cluster.nodes() {
        cluster.lose_node(&node);
    }
    operator.run(&mut cluster, 400).unwrap();
    let key = ObjectKey::namespaced("apps/v1", "Deployment", "kubevirt", "virt-api");
    let live = cluster.object(&key).unwrap();
    assert_eq!(live["spec"]["template"]["metadata"]["labels"]["kubevirt.io/version"], "v0.17.0");
    for node in cluster.nodes() {
        cluster.return_node(&node);
    }
    operator.run(&mut cluster, 10).unwrap();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &NEW);
}
