//! Everything that a plan is made from, as one value. Pure: what was seen and asked is handed in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::{Certificates, Operator, Pod};
use kubevirt_types::{KubeVirt, ObjectKey, labels};
use serde_json::Value;

use crate::ask::Asked;
use crate::kinds::{CONFIG_MAP, DAEMON_SET, JOB, KINDS, KUBEVIRT, LEASE, NODE, POD, SECRET};
use crate::source::Source;
use crate::strategy::Strategies;
use crate::{certificates, jobs, nodes, pods, reporters};

/// The components whose pods are the control plane.
const COMPONENTS: [&str; 3] = ["virt-api", "virt-controller", "virt-handler"];

/// Puts together what a source shows, what was asked for, and objects that should be labelled as ours and aren't.
/// `strategies` remembers what it has unpacked.
pub fn world(
    source: &impl Source,
    operator: &Operator,
    asked: Asked,
    unlabelled: BTreeMap<ObjectKey, Value>,
    strategies: &mut Strategies,
    now: Timestamp,
) -> Observed {
    let namespace = &operator.namespace;
    let (kubevirt, other_kubevirts) = kubevirts(&source.of_kind(KUBEVIRT), namespace);
    let pods = source.of_kind(POD);
    let nodes = source.of_kind(NODE);
    let stored = strategies.read(&source.of_kind(CONFIG_MAP)).to_vec();
    let mut objects = objects(source, strategies);
    objects.extend(unlabelled);
    let mut facts_of = |kind: &str| {
        let mut all = source.of_kind(kind);
        all.extend(objects.extract_if(.., |key, _| key.kind == kind).map(|(_, object)| object));
        all
    };
    let jobs = facts_of(JOB);
    let secrets = facts_of(SECRET);
    let daemon_set = objects.values().find(|object| object["kind"] == DAEMON_SET);
    Observed {
        synced: true,
        operator: operator.clone(),
        kubevirt,
        other_kubevirts,
        reporters: reporters::reporters(&pods, &source.of_kind(LEASE), &nodes, daemon_set, now),
        guard_active: asked.guard_active,
        certificates: certificates(source, namespace, &secrets),
        instances: asked.instances,
        strategy_jobs: jobs.iter().filter_map(|job| jobs::job(job, &pods)).collect(),
        pods: component_pods(&pods),
        nodes: nodes.iter().filter_map(nodes::node).collect(),
        strategies: stored.into_iter().map(|strategy| (strategy.set.config.id(), strategy)).collect(),
        objects,
    }
}

fn component_pods(pods: &[Value]) -> Vec<Pod> {
    let pods = pods.iter().filter_map(pods::pod);
    pods.filter(|pod| COMPONENTS.contains(&pod.component.as_str())).collect()
}

/// Every object that is labelled as ours, but for those that are facts of their own.
fn objects(source: &impl Source, strategies: &Strategies) -> BTreeMap<ObjectKey, Value> {
    KINDS
        .iter()
        .filter(|row| ![KUBEVIRT, POD, NODE, LEASE, JOB, SECRET].contains(&row.kind))
        .flat_map(|row| source.of_kind(row.kind))
        .filter(|object| !strategies.holds(object))
        .filter_map(|object| Some((ObjectKey::of(&object)?, object)))
        .collect()
}

fn certificates(source: &impl Source, namespace: &str, secrets: &[Value]) -> Certificates {
    let bundle = source.get(&ObjectKey::namespaced("v1", CONFIG_MAP, namespace, labels::CONFIGMAP_CA));
    let unread = !source.may_read(SECRET);
    Certificates { unread, ..certificates::certificates(secrets, bundle.as_ref()) }
}

/// The oldest KubeVirt object of the namespace, and every other one anywhere.
pub fn kubevirts(objects: &[Value], namespace: &str) -> (Option<KubeVirt>, Vec<ObjectKey>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;
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

    /// A source of a few objects.
    struct Few {
        objects: Vec<Value>,
        secrets: bool,
    }

    impl Source for Few {
        fn of_kind(&self, kind: &str) -> Vec<Value> {
            self.objects.iter().filter(|object| object["kind"] == kind).cloned().collect()
        }

        fn get(&self, key: &ObjectKey) -> Option<Value> {
            self.objects.iter().find(|object| ObjectKey::of(object).as_ref() == Some(key)).cloned()
        }

        fn may_read(&self, kind: &str) -> bool {
            self.secrets || kind != SECRET
        }
    }

    fn seen(source: &Few, unlabelled: BTreeMap<ObjectKey, Value>) -> Observed {
        let operator =
            Operator { release: Release::V0_18_0, registry: "r".into(), namespace: "kubevirt".into() };
        let asked = Asked::default();
        world(source, &operator, asked, unlabelled, &mut Strategies::default(), Timestamp::UNIX_EPOCH)
    }

    fn object(kind: &str, name: &str) -> Value {
        let api_version = KINDS.iter().find(|row| row.kind == kind).unwrap().api_version;
        json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"namespace": "kubevirt", "name": name, "uid": "u", "resourceVersion": "1"},
        })
    }

    #[test]
    fn an_object_is_a_fact_of_its_own_or_a_managed_one_never_both() {
        let objects = ["Service", "Secret", "Job", "Lease", "ConfigMap"].map(|kind| object(kind, "a"));
        let found = object("Deployment", "found");
        let found = BTreeMap::from([(ObjectKey::of(&found).unwrap(), found)]);
        let observed = seen(&Few { objects: objects.into(), secrets: true }, found);
        let kinds: Vec<_> = observed.objects.keys().map(|key| key.kind.as_str()).collect();
        assert_eq!(kinds, ["Deployment", "ConfigMap", "Service"]);
        assert!(!observed.certificates.unread);
    }

    #[test]
    fn secrets_that_may_not_be_read_are_not_taken_for_missing_ones() {
        let observed = seen(&Few { objects: vec![], secrets: false }, BTreeMap::new());
        assert!(observed.certificates.unread);
    }
}
