//! A moment of the world as one number: two worlds at the same moment have the same future.
//!
//! Leaves out what only names things: resourceVersions, and how many writes it took to come here.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::operator::Operator;

/// What an object says, without what counts its writes.
fn say(live: &Value, hasher: &mut DefaultHasher) {
    for (field, value) in live.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| field == "metadata") {
            Some(metadata) => {
                let kept = metadata
                    .iter()
                    .filter(|(name, _)| !matches!(name.as_str(), "resourceVersion" | "generation"));
                kept.for_each(|(name, value)| (name, value.to_string()).hash(hasher));
            }
            None if field == "status" => {
                let kept =
                    value.as_object().into_iter().flatten().filter(|(name, _)| *name != "observedGeneration");
                kept.for_each(|(name, value)| (name, value.to_string()).hash(hasher));
            }
            None => (field, value.to_string()).hash(hasher),
        }
    }
}

impl Cluster {
    /// Everything that the future depends on.
    fn hash_world(&self, hasher: &mut DefaultHasher) {
        (self.now, format!("{:?}", self.random), self.uids, self.guard_since).hash(hasher);
        for (key, live) in &self.objects {
            key.hash(hasher);
            let seen = live["status"]["observedGeneration"] == live["metadata"]["generation"];
            seen.hash(hasher);
            say(live, hasher);
        }
        if let Some(kubevirt) = &self.kubevirt {
            let mut status = kubevirt.status.clone().unwrap_or_default();
            status.generations.clear();
            let spec = serde_json::to_string(&kubevirt.spec).unwrap_or_default();
            (spec, &kubevirt.metadata.annotations, kubevirt.is_deleting(), &kubevirt.metadata.finalizers)
                .hash(hasher);
            serde_json::to_string(&status).unwrap_or_default().hash(hasher);
        }
        let jobs: Vec<_> =
            self.jobs.iter().map(|job| (&job.job.deployment_id, &job.job.state, job.over)).collect();
        format!("{:?} {:?} {jobs:?} {:?}", self.pods, self.nodes, self.faults).hash(hasher);
        for set in &self.replica_sets {
            (&set.deployment, &set.hash, set.replicas, set.min_ready).hash(hasher);
        }
        for id in self.strategies.keys() {
            id.hash(hasher);
        }
        for (name, certificate) in self
            .leaves
            .iter()
            .map(|(name, leaf)| (name.as_str(), leaf))
            .chain(self.ca.iter().map(|ca| ("", ca)))
        {
            (name, certificate.content.as_ref().map(|content| &content.fingerprint)).hash(hasher);
        }
        (&self.instances, &self.images, self.drain).hash(hasher);
    }
}

impl Operator {
    /// The moment at which this operator and the world are.
    pub fn moment(&self, cluster: &Cluster) -> u64 {
        let mut hasher = DefaultHasher::new();
        cluster.hash_world(&mut hasher);
        self.wake(cluster).hash(&mut hasher);
        hasher.finish()
    }
}
