//! What an operator sees of the cluster.

use std::collections::BTreeMap;

use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::{
    Certificates, Handle, Instances, Node, Operator, Pod, StoredStrategy, Trouble,
};
use kubevirt_types::gate::Reporter;
use kubevirt_types::{ObjectKey, labels};

use crate::cluster::{Cluster, Fault, SimPod};

impl Cluster {
    /// Everything, as it is now.
    pub fn observe(&self) -> Observed {
        Observed {
            synced: true,
            operator: Operator {
                release: self.operator.release.clone(),
                registry: self.operator.registry.clone(),
                namespace: self.operator.namespace.clone(),
            },
            kubevirt: self.kubevirt.clone(),
            other_kubevirts: vec![],
            objects: self.objects.clone(),
            pods: self.pods.iter().map(|pod| self.pod(pod)).collect(),
            nodes: self
                .nodes
                .iter()
                .map(|node| Node {
                    handle: Handle {
                        key: ObjectKey::cluster("v1", "Node", &node.name),
                        uid: format!("uid-{}", node.name),
                        resource_version: "1".into(),
                    },
                    not_ready_since: node.not_ready_since,
                    unschedulable: false,
                    schedulable_label: Some("true".into()),
                    heartbeat: None,
                    handler_pod: None,
                    our_labels: node.labels.clone(),
                    our_annotations: vec![],
                })
                .collect(),
            strategies: self
                .strategies
                .iter()
                .map(|(id, (handle, set))| {
                    (id.clone(), StoredStrategy { handle: handle.clone(), set: set.clone() })
                })
                .collect(),
            strategy_jobs: self.jobs.iter().map(|(job, _)| job.clone()).collect(),
            reporters: self.reporters(),
            guard_active: self.guard_active(),
            certificates: self.certificates(),
            instances: self.counted(),
        }
    }

    fn pod(&self, pod: &SimPod) -> Pod {
        let trouble = |reason: &str, message: &str| {
            Some(Trouble {
                container: Some(pod.component.clone()),
                reason: reason.into(),
                message: message.into(),
            })
        };
        let trouble = match self.fault(pod) {
            Some(Fault::ImageMissing) => trouble("ErrImagePull", "not found"),
            Some(Fault::Crashes) => trouble("CrashLoopBackOff", ""),
            Some(Fault::NeverReady) | None => None,
        };
        Pod {
            component: pod.component.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: Some(pod.node.clone()),
            template_hash: pod.template_hash.clone(),
            release: Some(pod.release.clone()),
            created: pod.created,
            ready_since: pod.ready_since,
            deleting_since: pod.deleting_since,
            restarts: 0,
            trouble: trouble.filter(|_| pod.ready_since.is_none()),
        }
    }

    fn reporters(&self) -> Vec<Reporter> {
        let live = |component: &'static str| {
            self.pods.iter().filter(move |pod| pod.component == component && pod.deleting_since.is_none())
        };
        let release = |pod: &SimPod| pod.reported.then(|| pod.release.clone());
        let mut reporters: Vec<Reporter> = live("virt-controller")
            .map(|pod| Reporter { name: format!("virt-controller {}", pod.name), release: release(pod) })
            .collect();
        let wanted = self.objects.keys().any(|key| key.kind == "DaemonSet");
        for node in self.nodes.iter().filter(|_| wanted) {
            let newest =
                live("virt-handler").filter(|pod| pod.node == node.name).max_by_key(|pod| pod.created);
            reporters.push(Reporter {
                name: format!("virt-handler on node {}", node.name),
                release: newest.and_then(release),
            });
        }
        reporters
    }

    fn certificates(&self) -> Certificates {
        let pem = self
            .objects
            .iter()
            .find(|(key, _)| key.kind == "ConfigMap" && key.name == labels::CONFIGMAP_CA)
            .and_then(|(_, live)| live["data"][labels::CA_BUNDLE_KEY].as_str())
            .unwrap_or_default();
        let mut bundle: Vec<_> = pem
            .lines()
            .filter_map(|line| self.bundle_known.iter().find(|ca| ca.fingerprint == line))
            .cloned()
            .collect();
        bundle.sort_by_key(|ca| std::cmp::Reverse(ca.not_before));
        Certificates { ca: self.ca.clone(), leaves: self.leaves.clone(), bundle }
    }

    fn counted(&self) -> BTreeMap<String, Instances> {
        self.objects
            .iter()
            .filter(|(key, _)| key.kind == "CustomResourceDefinition")
            .filter_map(|(_, crd)| crd["spec"]["names"]["plural"].as_str())
            .map(|plural| {
                let all = self.instances.get(plural).map(Vec::as_slice).unwrap_or_default();
                let found = Instances {
                    count: all.len(),
                    deleting: all.iter().filter(|(_, deleting)| *deleting).count(),
                    some: all.iter().take(3).map(|(name, _)| name.clone()).collect(),
                };
                (plural.to_owned(), found)
            })
            .collect()
    }
}
