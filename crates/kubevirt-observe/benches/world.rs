//! What one look at the world costs: `cargo bench -p kubevirt-observe`.
//!
//! 5,000 nodes, each with a virt-handler and its report, as the API server sends them and as the watches keep them.

#![allow(missing_docs, reason = "a program")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DynamicObject;
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_observe::kinds::{self, DAEMON_SET, KINDS, LEASE, NODE, POD};
use kubevirt_observe::source::{drop_what_nobody_reads, with_type};
use kubevirt_observe::strategy::Strategies;
use kubevirt_observe::{Asked, Source, world};
use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::Operator;
use kubevirt_types::{ObjectKey, Release, labels};
use serde_json::{Value, json};

/// Looks that are measured.
const LOOKS: usize = 20;
const NODES: usize = 5_000;

fn main() {
    println!("{NODES} nodes, {NODES} virt-handlers, {NODES} reports, {LOOKS} looks each");
    let sent = Store::of(NODES);
    let kept = Store { objects: sent.objects.iter().map(|(kind, all)| (*kind, kept(kind, all))).collect() };
    let [all, some] = [("as sent", &sent), ("as kept", &kept)].map(|(name, store)| {
        let mut looks: Vec<Duration> = (0..LOOKS)
            .map(|_| {
                let start = Instant::now();
                drop(black_box(look(black_box(store))));
                start.elapsed()
            })
            .collect();
        looks.sort_unstable();
        let (median, last) = (looks[LOOKS / 2], looks[LOOKS - 1]);
        println!("{name}: median {median:.1?}, slowest {last:.1?}, {} KiB of JSON", store.size() / 1024);
        look(store)
    });
    assert_eq!(all.nodes, some.nodes, "nothing that is read is dropped");
    assert_eq!(all.pods, some.pods, "nothing that is read is dropped");
    assert_eq!(all.reporters, some.reporters, "nothing that is read is dropped");
    assert_eq!((all.nodes.len(), all.pods.len(), all.reporters.len()), (NODES, NODES, NODES));
}

fn look(store: &Store) -> Observed {
    let operator = Operator {
        release: Release::V0_18_0,
        registry: kubevirt_manifests::config::DEFAULT_REGISTRY.to_owned(),
        namespace: labels::DEFAULT_NAMESPACE.to_owned(),
    };
    let asked = Asked { guard_active: false, instances: BTreeMap::new() };
    world(store, &operator, asked, BTreeMap::new(), &mut Strategies::default(), Timestamp::UNIX_EPOCH)
}

fn kept(kind: &str, objects: &[DynamicObject]) -> Vec<DynamicObject> {
    let row = KINDS.iter().find(|row| row.kind == kind).expect("the kind is in the table");
    let mut objects = objects.to_vec();
    objects.iter_mut().for_each(|object| drop_what_nobody_reads(row, object));
    objects
}

/// Objects by kind, read as the operator's watches are.
struct Store {
    objects: BTreeMap<&'static str, Vec<DynamicObject>>,
}

impl Source for Store {
    fn of_kind(&self, kind: &str) -> Vec<Value> {
        let Some(row) = KINDS.iter().find(|row| row.kind == kind) else { return vec![] };
        let mut objects: Vec<&DynamicObject> = self.objects.get(kind).into_iter().flatten().collect();
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        objects.into_iter().map(|object| with_type(row, object)).collect()
    }

    fn get(&self, key: &ObjectKey) -> Option<Value> {
        let row = kinds::find(key)?;
        let found = self.objects.get(row.kind)?.iter().find(|object| object.name_any() == key.name)?;
        Some(with_type(row, found))
    }

    fn may_read(&self, _: &str) -> bool {
        true
    }
}

impl Store {
    /// A release's objects, and so many nodes.
    fn of(nodes: usize) -> Self {
        let set = manifests(&InstallConfig::of(Release::V0_18_0));
        let mut objects: BTreeMap<&'static str, Vec<DynamicObject>> = BTreeMap::new();
        for manifest in &set.manifests {
            let row = kinds::find(&manifest.key).expect("the operator knows every kind of its own");
            objects.entry(row.kind).or_default().push(object(manifest.body.clone()));
        }
        let template = handler(&set);
        objects.insert(NODE, (0..nodes).map(|n| object(node(n))).collect());
        objects.insert(POD, (0..nodes).map(|n| object(pod(n, &template))).collect());
        objects.insert(LEASE, (0..nodes).map(|n| object(lease(n))).collect());
        Self { objects }
    }

    fn size(&self) -> usize {
        let large = self.objects.iter().filter(|(kind, _)| [NODE, POD, LEASE].contains(kind));
        large
            .flat_map(|(_, all)| all)
            .map(|object| serde_json::to_vec(object).map_or(0, |json| json.len()))
            .sum()
    }
}

fn object(body: Value) -> DynamicObject {
    serde_json::from_value(body).expect("it is an object")
}

fn handler(set: &ManifestSet) -> Value {
    let daemon_set = set.of_kind(DAEMON_SET).next().expect("virt-handler is one");
    daemon_set.body["spec"]["template"].clone()
}

/// A node as a kubelet tells it.
fn node(n: usize) -> Value {
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "KubeletHasNoTrouble", "message": "kubelet has no trouble",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let image =
        |i: usize| json!({"names": [format!("registry.example/image-{i}@sha256:{i:064}")], "sizeBytes": i});
    let amounts = json!({
        "cpu": "64", "memory": "527943984Ki", "pods": "110", "ephemeral-storage": "1843295976Ki",
        "hugepages-1Gi": "0", "hugepages-2Mi": "0", "devices.kubevirt.io/kvm": "1k", "devices.kubevirt.io/tun": "1k",
    });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": format!("node-{n:05}"), "uid": format!("uid-{n}"), "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubevirt.io/schedulable": "true",
                "kubernetes.io/hostname": format!("node-{n:05}"), "topology.kubernetes.io/zone": "a",
            },
            "annotations": {
                "kubevirt.io/heartbeat": "2026-01-01T00:00:00Z",
                "kubevirt.io/handler-pod": format!("virt-handler-{n:05}"),
            },
        },
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": format!("metal://{n}")},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.1.2.3"}, {"type": "Hostname", "address": "n"}],
            "capacity": amounts, "allocatable": amounts,
            "conditions": [
                condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"), condition("Ready", "True"),
            ],
            "images": (0..50).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Linux", "kernelVersion": "6.12.0"},
        },
    })
}

/// The virt-handler of a node.
fn pod(n: usize, template: &Value) -> Value {
    let mut pod = template.clone();
    let metadata = pod["metadata"].as_object_mut().expect("a template has metadata");
    metadata.insert("name".to_owned(), json!(format!("virt-handler-{n:05}")));
    metadata.insert("namespace".to_owned(), json!(labels::DEFAULT_NAMESPACE));
    metadata.insert("uid".to_owned(), json!(format!("uid-handler-{n}")));
    metadata.insert("resourceVersion".to_owned(), json!("1"));
    metadata.insert("creationTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["spec"]["nodeName"] = json!(format!("node-{n:05}"));
    let condition =
        |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    pod["status"] = json!({
        "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.1", "qosClass": "Burstable",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": conditions,
        "containerStatuses": [{
            "name": "virt-handler", "image": "kubevirt/virt-handler:v0.18.0", "imageID": "sha256:0", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    });
    pod
}

/// What it reports.
fn lease(n: usize) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": format!("version-report-virt-handler-{n:05}"), "namespace": labels::DEFAULT_NAMESPACE,
            "uid": format!("uid-report-{n}"), "resourceVersion": "1",
            "labels": {labels::REPORT_COMPONENT: "virt-handler", labels::REPORT_VERSION: "v0.18.0"},
        },
        "spec": {"holderIdentity": format!("virt-handler-{n:05}"), "renewTime": "2026-01-01T00:00:00.000000Z"},
    })
}
