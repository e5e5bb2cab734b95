//! Reads everything that a plan is made from into one value.
//!
//! Most of it comes from the warm watches; the rest is asked for. It never writes, but for one
//! dry run, and follows nothing from what it sees.

mod certificates;
mod expected;
mod jobs;
mod nodes;
mod pods;
pub mod probe;
mod reporters;

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::{Handle, Operator, StoredStrategy};
use kubevirt_types::{KubeVirt, ObjectKey, labels};
use serde_json::Value;

use crate::apply::{Applied, request};
use crate::cache::Cache;
use crate::kinds::{
    ADMISSION_POLICY, CONFIG_MAP, CRD, DAEMON_SET, JOB, KINDS, KUBEVIRT, LEASE, NODE, POD, SECRET,
};
use crate::strategy;
use expected::Expected;
pub use probe::ObserveError;

/// The components whose pods are the control plane.
const COMPONENTS: [&str; 3] = ["virt-api", "virt-controller", "virt-handler"];

/// Sees the cluster.
pub struct Observer {
    client: Client,
    cache: Cache,
    operator: Operator,
    expected: Expected,
    unlabelled: BTreeSet<ObjectKey>,
    decoded: Vec<StoredStrategy>,
}

impl Observer {
    /// An observer of what the cache holds.
    pub fn new(client: Client, cache: Cache, operator: Operator) -> Self {
        Self {
            client,
            cache,
            operator,
            expected: Expected::default(),
            unlabelled: BTreeSet::new(),
            decoded: Vec::new(),
        }
    }

    /// Takes note of what was written, so that no view from before it is taken for the present.
    pub fn note(&mut self, applied: &Applied) {
        self.expected.note(&applied.written);
        self.unlabelled.extend(applied.found.iter().cloned());
    }

    /// What the watches haven't shown yet: kinds that aren't listed, and writes of ours.
    pub fn behind(&mut self) -> Vec<String> {
        let unlisted = self.cache.unlisted().into_iter().map(|kind| format!("the list of every {kind}"));
        unlisted.chain(self.expected.unseen(|key| self.cache.get(key))).collect()
    }

    /// Everything, as of now.
    pub async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let (kubevirt, other_kubevirts) = kubevirts(&self.cache.of_kind(KUBEVIRT), &self.operator.namespace);
        let pod_objects = self.cache.of_kind(POD);
        let pods: Vec<_> = pod_objects
            .iter()
            .filter_map(pods::pod)
            .filter(|pod| COMPONENTS.contains(&pod.component.as_str()))
            .collect();
        let node_objects = self.cache.of_kind(NODE);
        let nodes: Vec<_> = node_objects.iter().filter_map(nodes::node).collect();
        let strategies = self.strategies();
        let mut objects = self.objects().await?;
        let jobs = self.with_unlabelled(JOB, &mut objects);
        let secrets = self.with_unlabelled(SECRET, &mut objects);
        let bundle = self.cache.get(&self.in_namespace(CONFIG_MAP, labels::CONFIGMAP_CA));
        let guarded = !self.cache.of_kind(ADMISSION_POLICY).is_empty();
        let uninstalling = kubevirt.as_ref().is_some_and(KubeVirt::is_deleting);
        Ok(Observed {
            synced: self.behind().is_empty(),
            operator: self.operator.clone(),
            reporters: reporters::reporters(
                &pod_objects,
                &self.cache.of_kind(LEASE),
                &node_objects,
                objects.values().find(|object| object["kind"] == DAEMON_SET),
                jiff::Timestamp::now(),
            ),
            guard_active: guarded && probe::guard_active(&self.client, &self.operator.namespace).await?,
            certificates: certificates::certificates(&secrets, bundle.as_ref()),
            instances: probe::instances(&self.client, &self.cache.of_kind(CRD), uninstalling).await?,
            strategy_jobs: jobs.iter().filter_map(|job| jobs::job(job, &pod_objects)).collect(),
            kubevirt,
            other_kubevirts,
            objects,
            pods,
            nodes,
            strategies,
        })
    }

    /// Every object that is labelled as ours, and those that should be and aren't.
    async fn objects(&mut self) -> Result<BTreeMap<ObjectKey, Value>, ObserveError> {
        let mut objects: BTreeMap<ObjectKey, Value> = KINDS
            .iter()
            .filter(|row| ![KUBEVIRT, POD, NODE, LEASE, JOB, SECRET].contains(&row.kind))
            .flat_map(|row| self.cache.of_kind(row.kind))
            .filter(|object| !self.is_decoded(object))
            .filter_map(|object| Some((ObjectKey::of(&object)?, object)))
            .collect();
        // once it is applied it is labelled, and comes from the watch
        self.unlabelled.retain(|key| self.cache.get(key).is_none());
        for key in self.unlabelled.clone() {
            match probe::get(&self.client, request::get(&key), &key).await? {
                Some(object) => {
                    objects.insert(key, object);
                }
                None => {
                    self.unlabelled.remove(&key);
                }
            }
        }
        Ok(objects)
    }

    /// Every object of a kind that is a fact of its own and no managed object: those that the watch shows, and those that
    /// were found unlabelled, which are taken out of `objects`.
    fn with_unlabelled(&self, kind: &str, objects: &mut BTreeMap<ObjectKey, Value>) -> Vec<Value> {
        let mut all = self.cache.of_kind(kind);
        all.extend(objects.extract_if(.., |key, _| key.kind == kind).map(|(_, object)| object));
        all
    }

    /// The stored manifest sets. Unpacking one takes longer than all the rest, so it is done once.
    fn strategies(&mut self) -> BTreeMap<String, StoredStrategy> {
        let stored: Vec<(Handle, Value)> = self
            .cache
            .of_kind(CONFIG_MAP)
            .into_iter()
            .filter(is_strategy)
            .filter_map(|map| Some((handle(&map)?, map)))
            .collect();
        self.decoded.retain(|known| stored.iter().any(|(handle, _)| *handle == known.handle));
        for (handle, map) in stored {
            if self.decoded.iter().any(|known| known.handle == handle) {
                continue;
            }
            match strategy::read(&map) {
                Ok(set) => self.decoded.push(StoredStrategy { handle, set: set.into() }),
                // no strategy, so it stays among the other objects, where it is an orphan
                Err(error) => tracing::warn!(%error, "an install strategy can't be read"),
            }
        }
        self.decoded.iter().map(|strategy| (strategy.set.config.id(), strategy.clone())).collect()
    }

    fn is_decoded(&self, object: &Value) -> bool {
        is_strategy(object)
            && handle(object).is_some_and(|of| self.decoded.iter().any(|known| known.handle == of))
    }

    fn in_namespace(&self, kind: &str, name: &str) -> ObjectKey {
        ObjectKey::namespaced("v1", kind, &self.operator.namespace, name)
    }
}

fn is_strategy(object: &Value) -> bool {
    object["kind"] == CONFIG_MAP && object["metadata"]["labels"].get(labels::INSTALL_STRATEGY).is_some()
}

/// The oldest KubeVirt object of the namespace, and every other one anywhere.
fn kubevirts(objects: &[Value], namespace: &str) -> (Option<KubeVirt>, Vec<ObjectKey>) {
    let created = |object: &Value| object["metadata"]["creationTimestamp"].as_str().map(str::to_owned);
    let active = objects
        .iter()
        .filter(|object| object["metadata"]["namespace"] == namespace)
        .min_by_key(|object| (created(object), ObjectKey::of(object)));
    let parsed = active.and_then(|object| {
        serde_json::from_value(object.clone())
            .inspect_err(|error| tracing::error!(%error, "the KubeVirt object can't be read"))
            .ok()
    });
    let others = objects.iter().filter(|object| active != Some(*object)).filter_map(ObjectKey::of).collect();
    (parsed, others)
}

/// Name and state of a stored object.
fn handle(object: &Value) -> Option<Handle> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Some(Handle {
        key: ObjectKey::of(object)?,
        uid: text("/metadata/uid")?,
        resource_version: text("/metadata/resourceVersion")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_object_of_our_namespace_is_the_active_one() {
        let object = |namespace: &str, name: &str, created: &str| {
            json!({
                "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
                "metadata": {"namespace": namespace, "name": name, "creationTimestamp": created},
                "spec": {},
            })
        };
        let objects = [
            object("default", "first", "2026-01-01T00:00:00Z"),
            object("kubevirt", "young", "2026-01-03T00:00:00Z"),
            object("kubevirt", "old", "2026-01-02T00:00:00Z"),
        ];
        let (active, others) = kubevirts(&objects, "kubevirt");
        assert_eq!(active.unwrap().name(), "old");
        let others: Vec<_> = others.iter().map(ToString::to_string).collect();
        assert_eq!(others, ["KubeVirt default/first", "KubeVirt kubevirt/young"]);
    }
}
