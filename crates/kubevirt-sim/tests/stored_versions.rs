//! The life of a version that isn't stored any more: objects are rewritten, the CRD forgets it, a later release drops
//! it. In no other order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_manifests::InstallConfig;
use kubevirt_rollout::{Direction, Stage};
use kubevirt_sim::Cluster;
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};
use support::{assert_at, installed, settle};

fn vms() -> ObjectKey {
    ObjectKey::cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "virtualmachines.kubevirt.io")
}

fn stored(cluster: &Cluster) -> Value {
    cluster.object(&vms()).unwrap()["status"]["storedVersions"].clone()
}

/// Name, served, storage of each version.
fn versions(cluster: &Cluster) -> Vec<(String, bool, bool)> {
    let crd = cluster.object(&vms()).unwrap();
    let facts = |version: &Value| {
        let name = version["name"].as_str().unwrap().to_owned();
        (name, version["served"] == true, version["storage"] == true)
    };
    crd["spec"]["versions"].as_array().unwrap().iter().map(facts).collect()
}

/// As an early release has left it: objects are stored as v1alpha3.
fn store_v1alpha3(cluster: &mut Cluster) {
    let mut versions = cluster.object(&vms()).unwrap()["spec"]["versions"].clone();
    for version in versions.as_array_mut().unwrap() {
        version["storage"] = json!(version["name"] == "v1alpha3");
    }
    cluster.tamper(&vms(), "/spec/versions", versions);
    cluster.tamper(&vms(), "/status/storedVersions", json!(["v1alpha3"]));
}

/// A release that has all of v0.18.0 and serves VMs as v1 only.
fn publish_v1_only(cluster: &mut Cluster) {
    let mut set = (*cluster.manifests(&InstallConfig::of(Release::V0_18_0))).clone();
    for manifest in set.manifests.iter_mut().filter(|manifest| manifest.key == vms()) {
        let versions = manifest.body["spec"]["versions"].as_array_mut().unwrap();
        versions.retain(|version| version["name"] == "v1");
        *manifest = manifest.clone().rehashed();
    }
    cluster.publish_manifests(set);
}

#[test]
fn what_an_early_release_has_stored_is_rewritten_and_forgotten() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    store_v1alpha3(&mut cluster);
    let before = cluster.log.len();
    let plan = settle(&mut operator, &mut cluster);
    assert_eq!((plan.direction, plan.stage), (Direction::Steady, Stage::Settled));
    assert_eq!(stored(&cluster), json!(["v1"]));
    assert_eq!(
        versions(&cluster),
        [("v1".to_owned(), true, true), ("v1alpha3".to_owned(), true, false)],
        "both stay served"
    );
    assert_eq!(
        cluster.log[before..],
        [
            "apply CustomResourceDefinition virtualmachines.kubevirt.io",
            "store every VirtualMachine as v1 and forget other versions",
        ]
    );
}

#[test]
fn a_release_may_drop_a_version_only_when_nothing_is_stored_as_it() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    publish_v1_only(&mut cluster);
    cluster.tamper(&vms(), "/status/storedVersions", json!(["v1alpha3", "v1"]));
    cluster.set_image_tag(Some("v0.18.0"));
    let before = cluster.log.len();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert_eq!(stored(&cluster), json!(["v1"]));
    assert_eq!(versions(&cluster), [("v1".to_owned(), true, true)]);
    let at = |what: &str| cluster.log[before..].iter().position(|line| line == what).unwrap();
    let rewritten = at("store every VirtualMachine as v1 and forget other versions");
    assert!(rewritten < at("apply CustomResourceDefinition virtualmachines.kubevirt.io"));
}

#[test]
fn what_a_lost_node_may_still_use_stays_served_until_it_is_back() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    publish_v1_only(&mut cluster);
    cluster.set_image_tag(Some("v0.18.0"));
    operator.run(&mut cluster, 15).unwrap();
    let lost = cluster.nodes().last().unwrap().clone();
    cluster.lose_node(&lost);
    operator.run(&mut cluster, 900).unwrap();
    let observed = cluster.kubevirt().unwrap().status.clone().unwrap().observed_kube_virt_version;
    assert_eq!(observed.as_deref(), Some("v0.18.0"), "the update is over without the node");
    let both = [("v1".to_owned(), true, true), ("v1alpha3".to_owned(), true, false)];
    assert_eq!(versions(&cluster), both);
    cluster.return_node(&lost);
    operator.run(&mut cluster, 10).unwrap();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert_eq!(versions(&cluster), both[..1]);
}
