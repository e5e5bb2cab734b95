//! What must be true of the world at every moment, whatever the plans were.
//!
//! Looks at pods and objects as they are, not at what anybody observes or plans. What a misfortune takes is taken: the
//! promise is that nothing else gets lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use kubevirt_manifests::{InstallConfig, ManifestSet};
use kubevirt_rollout::Policy;
use kubevirt_types::{Kind, ObjectKey, Release};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::daemon_set::MaxSurge;
use crate::pods::{HANDLER, SimNode, SimPod};

/// What the lock needs to go from one virt-handler to the next, at most.
const HAND_OVER: SignedDuration = SignedDuration::from_secs(3);

/// A pod that has just become Ready again is none that a DaemonSet's controller spares, however fast it may go: a node
/// that was away counts again after so long.
const SETTLED: SignedDuration = SignedDuration::from_mins(3);

/// What was reached once, and must not be lost again.
#[derive(Debug, Clone, Default)]
pub struct Promise {
    api: usize,
    handlers: BTreeMap<String, bool>,
    /// Nodes that were lost, until nothing old is left on them: an update ends without them.
    left_behind: BTreeSet<String>,
    /// Template hashes of virt-handler that went beyond the first node.
    spread: BTreeSet<String>,
    /// Objects of our kinds, by kind and name, that nobody has asked to delete.
    instances: BTreeSet<String>,
    /// Objects that live and that the release of a pod that acts has.
    needed: BTreeSet<ObjectKey>,
    misfortunes: u64,
    meddled: u64,
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
        if self.misfortunes != cluster.misfortunes {
            self.misfortunes = cluster.misfortunes;
            self.api = 0;
            self.handlers.clear();
        }
        if self.meddled != cluster.meddled {
            self.meddled = cluster.meddled;
            self.instances.clear();
            self.needed.clear();
        }
        self.leave_behind(cluster);
        let mut broken = Vec::new();
        broken.extend(self.api_serves(cluster));
        broken.extend(self.handlers_serve(cluster));
        broken.extend(self.api_not_ahead(cluster));
        broken.extend(self.one_handler_at_a_time(cluster, policy));
        broken.extend(rules_stand(cluster, policy));
        broken.extend(self.new_kinds_guarded(cluster));
        broken.extend(self.instances_untouched(cluster));
        broken.extend(self.needed_stand(cluster, policy));
        broken
    }

    /// I5: nobody deletes a VM but its owner.
    fn instances_untouched(&mut self, cluster: &Cluster) -> Option<String> {
        let all: BTreeSet<String> = cluster
            .instances
            .iter()
            .flat_map(|(plural, all)| all.iter().map(move |one| (plural, one)))
            .filter(|(_, (_, deleting))| !deleting)
            .map(|(plural, (name, _))| format!("{plural} {name}"))
            .collect();
        let lost = self.instances.difference(&all).next().cloned();
        self.instances = all;
        lost.map(|lost| format!("I5: {lost} is gone, and nobody has deleted it"))
    }

    /// I8: what the release of a pod that acts has, and lives, stays.
    fn needed_stand(&mut self, cluster: &Cluster, policy: &Policy) -> Option<String> {
        let mut needed = BTreeSet::new();
        for set in acting_sets(cluster, policy) {
            let keys = set.manifests.iter().map(|manifest| &manifest.key);
            needed.extend(keys.filter(|key| cluster.objects.contains_key(*key)).cloned());
            let was = set
                .manifests
                .iter()
                .find(|manifest| self.needed.contains(&manifest.key) && !needed.contains(&manifest.key));
            if let Some(was) = was {
                return Some(format!("I8: {} is gone, and {} has it", was.key, set.config.release));
            }
        }
        self.needed = needed;
        None
    }

    /// A lost node is left behind, and stays so when it is back, until no pod of another release than the objects'
    /// lives there.
    fn leave_behind(&mut self, cluster: &Cluster) {
        self.left_behind.extend(cluster.lost_nodes());
        let releases: BTreeSet<&Release> =
            cluster.pods.iter().filter(|pod| pod.lives()).map(|pod| &pod.release).collect();
        let newest = releases.last().copied();
        let old_on = |node: &String| {
            let here = |pod: &&SimPod| pod.lives() && pod.node.as_ref() == Some(node);
            cluster.pods.iter().filter(here).any(|pod| Some(&pod.release) != newest)
        };
        let lost = cluster.lost_nodes();
        self.left_behind.retain(|node| lost.contains(node) || old_on(node));
    }

    /// Pods that count: they live, and not on a node that was left behind.
    fn live<'a>(&'a self, cluster: &'a Cluster) -> impl Iterator<Item = &'a SimPod> {
        cluster.pods.iter().filter(|pod| {
            pod.lives() && !pod.node.as_ref().is_some_and(|node| self.left_behind.contains(node))
        })
    }

    /// I4: two where there were two.
    fn api_serves(&mut self, cluster: &Cluster) -> Option<String> {
        let serving = cluster.pods.iter().filter(|pod| pod.component == "virt-api" && pod.serves()).count();
        self.api = self.api.max(serving.min(2));
        (serving < self.api).then(|| format!("I4: {serving} virt-api where there were {}", self.api))
    }

    /// No node is without a handler once it had one.
    fn handlers_serve(&mut self, cluster: &Cluster) -> Option<String> {
        for node in &cluster.nodes {
            let serving = handlers_on(cluster, node).any(SimPod::serves);
            let had = self.handlers.entry(node.name.clone()).or_default();
            if *had && !serving {
                return Some(format!("I4: node {} is without a virt-handler", node.name));
            }
            *had |= serving;
        }
        None
    }

    /// I3: virt-api is never newer than the slowest controller or handler.
    fn api_not_ahead(&self, cluster: &Cluster) -> Option<String> {
        let newest =
            self.live(cluster).filter(|pod| pod.component == "virt-api").map(|pod| &pod.release).max()?;
        let slowest =
            self.live(cluster).filter(|pod| pod.component != "virt-api").map(|pod| &pod.release).min()?;
        (newest > slowest).then(|| format!("I3: virt-api {newest} beside {slowest}"))
    }

    /// I6: one node is tried first, and no more than a tenth at a time after that. A node whose kubelet is silent
    /// doesn't count: nothing happens there. And while one is tried, at most one node suffers from it.
    fn one_handler_at_a_time(&mut self, cluster: &Cluster, policy: &Policy) -> Option<String> {
        let (_, live) = cluster.objects.iter().find(|(key, _)| key.kind == "DaemonSet")?;
        let hash =
            live["spec"]["template"]["metadata"]["annotations"]["kubevirt.io/template-hash"].as_str()?;
        let is_new = |pod: &&SimPod| pod.template_hash.as_deref() == Some(hash);
        let soak = cluster.kubevirt.as_ref().map_or(policy.soak, |kubevirt| policy.soak(&kubevirt.spec));
        let beside = |node: &&SimNode| {
            let pods = || handlers_on(cluster, node).filter(|pod| pod.lives());
            let just_back = node.back_since.is_some_and(|at| cluster.now.duration_since(at) < SETTLED);
            node.works()
                && !just_back
                && pods().any(|pod| is_new(&pod) && pod.ready_since.is_none())
                && pods().any(|pod| !is_new(&pod) && pod.ready_since.is_some() && pod.life.restarts == 0)
        };
        let proved = cluster.nodes.iter().any(|node| {
            node.schedulable == Some("true")
                && node.holder.as_ref().is_some_and(|(uid, since)| {
                    let holds = handlers_on(cluster, node).find(|pod| pod.uid == *uid);
                    holds.filter(is_new).is_some_and(SimPod::serves)
                        && cluster.now.duration_since(*since) + HAND_OVER >= soak
                })
        });
        if proved {
            self.spread.insert(hash.to_owned());
        }
        let limit = if self.spread.contains(hash) {
            MaxSurge::Percent(policy.spread_percent).of(cluster.nodes.len()).max(1)
        } else {
            let affected: Vec<String> = cluster
                .affected_by(|pod| is_new(&pod))
                .into_iter()
                .filter(|name| cluster.nodes.iter().any(|node| node.name == *name && node.works()))
                .collect();
            if affected.len() > 1 && !self.spread.is_empty() {
                return Some(format!(
                    "I6: {} suffer from a virt-handler that nobody has tried",
                    affected.join(", ")
                ));
            }
            1
        };
        let replaced = cluster.nodes.iter().filter(beside).count();
        (replaced > limit).then(|| format!("I6: {replaced} handlers are being replaced, at most {limit} may"))
    }

    /// A kind that a living pod's release lacks can't be used.
    fn new_kinds_guarded(&self, cluster: &Cluster) -> Option<String> {
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
        let lacking = self.live(cluster).find(|pod| !kind.exists_in(&pod.release));
        match (open, lacking) {
            (true, Some(pod)) => Some(format!("CRDs: {} may be used beside {}", kind.name(), pod.name)),
            _ => None,
        }
    }
}

fn handlers_on<'a>(cluster: &'a Cluster, node: &SimNode) -> impl Iterator<Item = &'a SimPod> {
    let name = node.name.clone();
    cluster.pods.iter().filter(move |pod| pod.component == HANDLER && pod.node.as_ref() == Some(&name))
}

/// The manifests of every release of which a pod acts. On a node whose kubelet is silent a pod acts however long ago
/// its deletion was asked for.
fn acting_sets(cluster: &Cluster, policy: &Policy) -> Vec<Arc<ManifestSet>> {
    let now = cluster.now;
    let silent: BTreeSet<&String> =
        cluster.nodes.iter().filter(|node| !node.works()).map(|node| &node.name).collect();
    let acts = |pod: &&SimPod| {
        pod.deleting_since.is_none_or(|since| now.duration_since(since) < policy.handover)
            || pod.node.as_ref().is_some_and(|node| silent.contains(node))
    };
    let releases: BTreeSet<&Release> = cluster.pods.iter().filter(acts).map(|pod| &pod.release).collect();
    releases
        .into_iter()
        .map(|release| {
            cluster.manifests(&InstallConfig { release: release.clone(), ..cluster.operator.clone() })
        })
        .collect()
}

/// I7: every pod that acts may do all that its own release's rules say.
fn rules_stand(cluster: &Cluster, policy: &Policy) -> Option<String> {
    for set in acting_sets(cluster, policy) {
        for manifest in set.manifests.iter().filter(|m| m.body.get("rules").is_some()) {
            let live = cluster.objects.get(&manifest.key).and_then(|live| live["rules"].as_array());
            let missing = manifest.body["rules"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|rule| !live.is_some_and(|live| live.contains(rule)));
            if let Some(missing) = missing {
                let release = &set.config.release;
                return Some(format!("I7: a pod of {release} lacks {missing} of {}", manifest.key));
            }
        }
    }
    None
}
