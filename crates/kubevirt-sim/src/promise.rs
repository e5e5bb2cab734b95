//! What must be true of the world at every moment, whatever the plans were.

use std::collections::BTreeMap;

use kubevirt_rollout::Policy;
use kubevirt_types::{Kind, ObjectKey, Release};
use serde_json::Value;

use crate::cluster::{Cluster, SimPod};

/// What was reached once, and must not be lost again.
#[derive(Debug, Clone, Default)]
pub struct Promise {
    api: usize,
    handlers: BTreeMap<String, bool>,
    looked_at: u64,
}

impl Promise {
    /// Looks at the world and names what is broken.
    pub fn broken(&mut self, cluster: &Cluster, policy: &Policy) -> Vec<String> {
        if cluster.kubevirt.as_ref().is_none_or(|kubevirt| kubevirt.is_deleting()) {
            return vec![];
        }
        if self.looked_at == cluster.version() {
            return vec![];
        }
        self.looked_at = cluster.version();
        let mut broken = Vec::new();
        broken.extend(self.api_serves(cluster));
        broken.extend(self.handlers_serve(cluster));
        broken.extend(api_not_ahead(cluster));
        broken.extend(one_handler_at_a_time(cluster));
        broken.extend(rules_stand(cluster, policy));
        broken.extend(new_kinds_guarded(cluster));
        broken
    }

    /// I4: two where there were two.
    fn api_serves(&mut self, cluster: &Cluster) -> Option<String> {
        let serving = cluster.pods.iter().filter(|pod| pod.component == "virt-api" && serves(pod)).count();
        self.api = self.api.max(serving.min(2));
        (serving < self.api).then(|| format!("I4: {serving} virt-api where there were {}", self.api))
    }

    /// No node is without a handler once it had one.
    fn handlers_serve(&mut self, cluster: &Cluster) -> Option<String> {
        for node in &cluster.nodes {
            let serving = cluster
                .pods
                .iter()
                .any(|pod| pod.component == "virt-handler" && pod.node == node.name && serves(pod));
            let had = self.handlers.entry(node.name.clone()).or_default();
            if *had && !serving {
                return Some(format!("node {} is without a virt-handler", node.name));
            }
            *had |= serving;
        }
        None
    }
}

fn serves(pod: &SimPod) -> bool {
    pod.ready_since.is_some() && pod.deleting_since.is_none()
}

fn live(cluster: &Cluster) -> impl Iterator<Item = &SimPod> {
    cluster.pods.iter().filter(|pod| pod.deleting_since.is_none())
}

/// I3: virt-api is never newer than the slowest controller or handler.
fn api_not_ahead(cluster: &Cluster) -> Option<String> {
    let newest = live(cluster).filter(|pod| pod.component == "virt-api").map(|pod| &pod.release).max()?;
    let slowest = live(cluster).filter(|pod| pod.component != "virt-api").map(|pod| &pod.release).min()?;
    (newest > slowest).then(|| format!("I3: virt-api {newest} beside {slowest}"))
}

/// I6: one node is tried first, and no more than a tenth at a time after that.
fn one_handler_at_a_time(cluster: &Cluster) -> Option<String> {
    let newest = cluster.objects.iter().find(|(key, _)| key.kind == "DaemonSet").and_then(|(_, live)| {
        live["spec"]["template"]["metadata"]["annotations"]["kubevirt.io/template-hash"].as_str()
    })?;
    let handlers = || live(cluster).filter(|pod| pod.component == "virt-handler");
    let is_new = |pod: &&SimPod| pod.template_hash.as_deref() == Some(newest);
    let replaced = handlers()
        .filter(|pod| is_new(pod) && pod.ready_since.is_none())
        .filter(|new| {
            handlers().any(|old| old.node == new.node && old.uid != new.uid && old.ready_since.is_some())
        })
        .count();
    let limit = cluster.nodes.len().div_ceil(10).max(1);
    let proved = handlers().any(|pod| is_new(&pod) && pod.ready_since.is_some());
    let limit = if proved { limit } else { 1 };
    (replaced > limit).then(|| format!("I6: {replaced} handlers are being replaced, at most {limit} may"))
}

/// I7: every pod that acts may do all that its own release's rules say.
fn rules_stand(cluster: &Cluster, policy: &Policy) -> Option<String> {
    let now = cluster.now;
    let releases: std::collections::BTreeSet<Release> = cluster
        .pods
        .iter()
        .filter(|pod| pod.deleting_since.is_none_or(|since| now.duration_since(since) < policy.handover))
        .map(|pod| pod.release.clone())
        .collect();
    for release in releases {
        let config =
            kubevirt_manifests::InstallConfig { release: release.clone(), ..cluster.operator.clone() };
        let set = cluster.manifests(&config);
        for manifest in set.manifests.iter().filter(|m| m.body.get("rules").is_some()) {
            let live = cluster.objects.get(&manifest.key).and_then(|live| live["rules"].as_array());
            let missing = manifest.body["rules"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|rule| !live.is_some_and(|live| live.contains(rule)));
            if let Some(missing) = missing {
                return Some(format!("I7: a pod of {release} lacks {missing} of {}", manifest.key));
            }
        }
    }
    None
}

/// A kind that a living pod's release lacks can't be used.
fn new_kinds_guarded(cluster: &Cluster) -> Option<String> {
    let kind = Kind::VirtualMachineInstanceReplicaSet;
    let key = ObjectKey::cluster(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &format!("{}.kubevirt.io", kind.plural()),
    );
    let open = cluster
        .objects
        .get(&key)
        .is_some_and(|live: &Value| live.pointer("/metadata/deletionTimestamp").is_none())
        && cluster.guard_refuses(kind.plural()).is_none();
    let lacking = live(cluster).find(|pod| !kind.exists_in(&pod.release));
    match (open, lacking) {
        (true, Some(pod)) => Some(format!("{} may be used beside {}", kind.name(), pod.name)),
        _ => None,
    }
}
