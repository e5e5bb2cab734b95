//! The cluster's state, and how to look at it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_rollout::observed::{CaCertificate, Certificate, Handle, StrategyJob};
use kubevirt_types::{KubeVirt, ObjectKey, Release};
use serde_json::{Value, json};

use crate::misfortune::FaultRule;
use crate::pods::{HANDLER, SimNode, SimPod};
use crate::random::Random;
use crate::timeless::timeless;
use crate::workloads::ReplicaSet;

/// A Job that makes manifests.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SimJob {
    pub(crate) job: StrategyJob,
    /// What it makes them from.
    pub(crate) config: Option<InstallConfig>,
    pub(crate) over: Timestamp,
}

/// A cluster in memory.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) now: Timestamp,
    pub(crate) version: u64,
    pub(crate) uids: u64,
    pub(crate) random: Random,
    /// The operator's release and registry.
    pub(crate) operator: InstallConfig,
    pub(crate) kubevirt: Option<KubeVirt>,
    pub(crate) objects: BTreeMap<ObjectKey, Value>,
    pub(crate) replica_sets: Vec<ReplicaSet>,
    pub(crate) pods: Vec<SimPod>,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) strategies: BTreeMap<String, (Handle, Arc<ManifestSet>)>,
    pub(crate) jobs: Vec<SimJob>,
    pub(crate) ca: Option<Certificate>,
    pub(crate) bundle_known: Vec<CaCertificate>,
    pub(crate) leaves: BTreeMap<String, Certificate>,
    pub(crate) instances: BTreeMap<String, Vec<(String, bool)>>,
    pub(crate) guard_since: Option<Timestamp>,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) images: BTreeSet<Release>,
    /// How long a deleted pod goes on carrying streams.
    pub(crate) drain: SignedDuration,
    pub(crate) generated: RefCell<BTreeMap<String, Arc<ManifestSet>>>,
    /// Times that somebody other than the operator and Kubernetes has changed something.
    pub(crate) meddled: u64,
    /// Times that something which served was lost without the operator's doing.
    pub(crate) misfortunes: u64,
    /// Every write that was accepted, in words.
    pub log: Vec<String>,
}

/// The same set with a digest in the place of every schema: they are nine tenths of it, and nobody here reads them.
fn small(mut set: ManifestSet) -> ManifestSet {
    for manifest in &mut set.manifests {
        for version in manifest.body["spec"]["versions"].as_array_mut().into_iter().flatten() {
            let digest = kubevirt_manifests::config::hash(&version["schema"].to_string());
            version["schema"] = json!({"openAPIV3Schema": {"type": "object", "description": digest}});
        }
    }
    set
}

impl Cluster {
    /// A cluster of so many nodes, with an operator of this release and an empty KubeVirt object.
    pub fn new(nodes: usize, operator: Release, seed: u64) -> Self {
        let operator = InstallConfig::of(operator);
        let mut cluster = Self {
            now: "2026-01-01T00:00:00Z".parse().expect("it is a time"),
            version: 1,
            uids: 0,
            random: Random::new(seed),
            kubevirt: None,
            objects: BTreeMap::new(),
            replica_sets: vec![],
            pods: vec![],
            nodes: (1..=nodes).map(|n| SimNode::new(format!("node-{n}"))).collect(),
            strategies: BTreeMap::new(),
            jobs: vec![],
            ca: None,
            bundle_known: vec![],
            leaves: BTreeMap::new(),
            instances: BTreeMap::new(),
            guard_since: None,
            faults: vec![],
            images: Release::ALL.into(),
            drain: SignedDuration::from_secs(3),
            generated: RefCell::default(),
            meddled: 0,
            misfortunes: 0,
            log: vec![],
            operator,
        };
        let uid = cluster.next_uid();
        let version = cluster.bump();
        cluster.kubevirt = serde_json::from_value(json!({
            "metadata": {
                "name": "kubevirt", "namespace": cluster.operator.namespace,
                "uid": uid, "resourceVersion": version, "generation": 1,
            },
            "spec": {},
        }))
        .ok();
        cluster
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Moves with every change that anybody makes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Moves with every change that neither the operator nor Kubernetes makes.
    pub fn meddled(&self) -> u64 {
        self.meddled
    }

    /// The KubeVirt object; none when it is gone.
    pub fn kubevirt(&self) -> Option<&KubeVirt> {
        self.kubevirt.as_ref()
    }

    /// A live object.
    pub fn object(&self, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(key)
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Every live object without what differs between two clusters that went other ways to the same end.
    pub fn contents(&self) -> BTreeMap<ObjectKey, Value> {
        self.objects
            .iter()
            .map(|(key, live)| {
                let mut live = timeless(live.clone());
                if let Some(metadata) = live["metadata"].as_object_mut() {
                    for field in ["uid", "resourceVersion", "generation"] {
                        metadata.shift_remove(field);
                    }
                }
                if let Some(object) = live.as_object_mut() {
                    object.shift_remove("status");
                }
                (key.clone(), live)
            })
            .collect()
    }

    /// How many pods of a component of this release serve.
    pub fn serving(&self, component: &str, release: &Release) -> usize {
        self.pods
            .iter()
            .filter(|pod| pod.component == component && pod.release == *release && pod.serves())
            .count()
    }

    /// Nodes on which a virt-handler with a fault holds the lock, or no virt-handler serves because of one.
    pub fn affected_nodes(&self) -> Vec<String> {
        self.affected_by(|_| true)
    }

    /// The same, of those virt-handlers that are `of` something.
    pub(crate) fn affected_by(&self, of: impl Fn(&SimPod) -> bool) -> Vec<String> {
        let affected = |node: &&SimNode| {
            let here = |pod: &&SimPod| pod.component == HANDLER && pod.node.as_deref() == Some(&node.name);
            let faulty = |pod: &&SimPod| here(pod) && pod.lives() && of(pod) && self.fault(pod).is_some();
            let holds = |pod: &SimPod| node.holder.as_ref().is_some_and(|(uid, _)| *uid == pod.uid);
            let served = self.pods.iter().filter(here).any(SimPod::serves);
            self.pods.iter().filter(faulty).any(|pod| holds(pod) || !served)
        };
        self.nodes.iter().filter(affected).map(|node| node.name.clone()).collect()
    }

    pub(crate) fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Somebody changes something.
    pub(crate) fn meddle(&mut self) {
        self.version += 1;
        self.meddled += 1;
    }

    pub(crate) fn next_uid(&mut self) -> String {
        self.version += 1;
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    /// The manifests of a config, made once.
    pub fn manifests(&self, config: &InstallConfig) -> Arc<ManifestSet> {
        let mut generated = self.generated.borrow_mut();
        generated.entry(config.id()).or_insert_with(|| Arc::new(small(manifests(config)))).clone()
    }
}
