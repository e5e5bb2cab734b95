//! What every road needs: a cluster with an installation, and how to look at it.
#![allow(dead_code, reason = "each test file uses a part")]

use kubevirt_rollout::{Direction, Plan, Stage};
use kubevirt_sim::{Cluster, Operator};
use kubevirt_types::Release;

/// No road takes more seconds than this.
pub const BOUND: usize = 2400;

pub fn settle(operator: &mut Operator, cluster: &mut Cluster) -> Plan {
    match operator.settle(cluster, BOUND) {
        Ok(plan) => plan,
        Err(broken) => panic!("{broken}\nlast writes:\n{}", tail(cluster)),
    }
}

/// The last writes, and the virt-handlers as they are.
pub fn tail(cluster: &Cluster) -> String {
    let mut told = cluster.log[cluster.log.len().saturating_sub(25)..].join("\n");
    let ago = |at: Option<jiff::Timestamp>| at.map(|at| cluster.now().duration_since(at).as_secs());
    let observed = cluster.observe();
    for pod in observed.pods.iter().filter(|pod| pod.component == "virt-handler") {
        let line = format!(
            "\n{} on {}: {} made {:?} ready {:?} deleting {:?} s ago, {} restarts",
            pod.name,
            pod.node.as_deref().unwrap_or_default(),
            pod.release.as_ref().map(ToString::to_string).unwrap_or_default(),
            ago(Some(pod.created)),
            ago(pod.ready_since),
            ago(pod.deleting_since),
            pod.restarts,
        );
        told.push_str(&line);
    }
    for node in observed.nodes.iter().filter(|node| node.not_ready_since.is_some()) {
        told.push_str(&format!("\nnode {} NotReady {:?} s", node.name(), ago(node.not_ready_since)));
    }
    told
}

/// Everything serves in this release and the status says so.
pub fn assert_at(cluster: &Cluster, release: &Release) {
    let status = cluster.kubevirt().unwrap().status.clone().unwrap();
    assert_eq!(status.observed_kube_virt_version, Some(release.to_string()), "{status:#?}");
    assert_eq!(status.observed_deployment_id, status.target_deployment_id);
    let nodes = cluster.observe().nodes.len();
    for (component, count) in [("virt-api", 2), ("virt-controller", 2), ("virt-handler", nodes)] {
        assert_eq!(cluster.serving(component, release), count, "{component}");
    }
}

/// A cluster of three nodes with an installation, and nothing left to do.
pub fn installed(release: Release) -> (Operator, Cluster) {
    installed_on(3, release, 1)
}

pub fn installed_on(nodes: usize, release: Release, seed: u64) -> (Operator, Cluster) {
    let mut cluster = Cluster::new(nodes, release.clone(), seed);
    let mut operator = Operator::default();
    let plan = settle(&mut operator, &mut cluster);
    assert_eq!((plan.direction, plan.stage), (Direction::Steady, Stage::Settled), "{plan:#?}");
    assert!(plan.steps.is_empty());
    // a cluster that has been there for a while
    cluster.advance(jiff::SignedDuration::from_mins(5));
    operator.run(&mut cluster, 2).unwrap();
    (operator, cluster)
}

/// Status and message of a condition.
pub fn condition(cluster: &Cluster, type_: &str) -> (String, String) {
    let status = cluster.kubevirt().unwrap().status.clone().unwrap();
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (format!("{:?}", condition.status), condition.message.clone().unwrap_or_default())
}

/// Two clusters hold the same, but for what is a cluster's own: its CA.
pub fn same(a: &Cluster, b: &Cluster) {
    let keys = |cluster: &Cluster| cluster.contents().into_keys().collect::<Vec<_>>();
    assert_eq!(keys(a), keys(b));
    let others = b.contents();
    for (key, live) in a.contents() {
        let parts = ["/rules", "/subjects", "/spec/versions", "/spec/template"];
        for part in parts {
            assert_eq!(live.pointer(part), others[&key].pointer(part), "{key} {part}");
        }
    }
}

/// Whether the only virt-handler of a node that isn't being deleted is of this release, and serves.
pub fn has_only(cluster: &Cluster, node: &str, release: &Release) -> bool {
    let observed = cluster.observe();
    let mut here = observed.pods.iter().filter(|pod| {
        pod.component == "virt-handler" && pod.node.as_deref() == Some(node) && pod.deleting_since.is_none()
    });
    here.next().is_some_and(|pod| pod.serves() && pod.release.as_ref() == Some(release))
        && here.next().is_none()
}

/// What lives, but for notes about nodes on the DaemonSet: of it only the spec.
pub fn but_notes(
    cluster: &Cluster,
) -> std::collections::BTreeMap<kubevirt_types::ObjectKey, serde_json::Value> {
    let mut contents = cluster.contents();
    for (_, live) in contents.iter_mut().filter(|(key, _)| key.kind == "DaemonSet") {
        *live = live["spec"].take();
    }
    contents
}
