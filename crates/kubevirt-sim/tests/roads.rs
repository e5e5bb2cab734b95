//! Whole roads: install, update, rollback, uninstall, and what a user may do on the way.

use kubevirt_rollout::{Direction, Plan, Stage};
use kubevirt_sim::{Cluster, Operator};
use kubevirt_types::Release;

const BOUND: usize = 900;

fn settle(operator: &mut Operator, cluster: &mut Cluster) -> Plan {
    match operator.settle(cluster, BOUND) {
        Ok(plan) => plan,
        Err(broken) => panic!("{broken}\nlast writes:\n{}", tail(cluster)),
    }
}

fn tail(cluster: &Cluster) -> String {
    cluster.log[cluster.log.len().saturating_sub(15)..].join("\n")
}

fn at(cluster: &Cluster, release: &Release) {
    let status = cluster.kubevirt().unwrap().status.clone().unwrap();
    assert_eq!(status.observed_kube_virt_version, Some(release.to_string()), "{status:#?}");
    for (component, count) in [("virt-api", 2), ("virt-controller", 2)] {
        assert_eq!(cluster.serving(component, release), count, "{component}");
    }
}

fn installed(release: Release) -> (Operator, Cluster) {
    let mut cluster = Cluster::new(3, release.clone(), 1);
    let mut operator = Operator::default();
    let plan = settle(&mut operator, &mut cluster);
    assert_eq!((plan.direction, plan.stage), (Direction::Steady, Stage::Settled), "{plan:#?}");
    assert!(plan.steps.is_empty());
    at(&cluster, &release);
    (operator, cluster)
}

#[test]
fn install() {
    installed(Release::V0_17_0);
    installed(Release::V0_18_0);
}

#[test]
fn update_by_image_tag_and_back() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let before = cluster.contents();
    cluster.set_image_tag(Some("v0.18.0"));
    settle(&mut operator, &mut cluster);
    at(&cluster, &Release::V0_18_0);
    cluster.create_instance("virtualmachineinstancereplicasets", "a").unwrap();
    cluster.delete_instance("virtualmachineinstancereplicasets", "a");
    cluster.set_image_tag(Some("v0.17.0"));
    settle(&mut operator, &mut cluster);
    at(&cluster, &Release::V0_17_0);
    let differs: Vec<_> =
        cluster.contents().into_iter().filter(|(key, live)| before.get(key) != Some(live)).collect();
    assert!(differs.is_empty() && cluster.contents().len() == before.len(), "{differs:#?}");
}
