//! What an operator sees of the cluster: all of it as it is, or parts of it as they were.

use std::collections::{BTreeMap, BTreeSet};

use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::{
    Certificates, Crash, Handle, Instances, Node, Operator, Pod, Published, StoredStrategy, Trouble,
};
use kubevirt_types::gate::{self, PodFacts, Report, Reporter};
use kubevirt_types::labels::{HANDLER_POD, HEARTBEAT, SCHEDULABLE};
use kubevirt_types::{ObjectKey, labels};

use crate::cluster::Cluster;
use crate::kubelet::Container;
use crate::pods::{HANDLER, SimNode, SimPod};

/// A part of a view that has a watch of its own, and so may be older than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The KubeVirt object.
    KubeVirt,
    /// Objects of a release.
    Objects,
    /// Pods, and the reports that go with them.
    Pods,
    /// Nodes.
    Nodes,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 4] = [Self::KubeVirt, Self::Objects, Self::Pods, Self::Nodes];
}

/// A view with these parts as an older one has them.
pub fn delayed(view: &Observed, older: &Observed, parts: &[Part]) -> Observed {
    let mut view = view.clone();
    for part in parts {
        match part {
            Part::KubeVirt => view.kubevirt.clone_from(&older.kubevirt),
            Part::Objects => view.objects.clone_from(&older.objects),
            Part::Pods => {
                view.pods.clone_from(&older.pods);
                view.reporters.clone_from(&older.reporters);
            }
            Part::Nodes => view.nodes.clone_from(&older.nodes),
        }
    }
    view
}

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
            nodes: self.nodes.iter().map(node).collect(),
            strategies: self
                .strategies
                .iter()
                .map(|(id, (handle, set))| {
                    (id.clone(), StoredStrategy { handle: handle.clone(), set: set.clone() })
                })
                .collect(),
            strategy_jobs: self.jobs.iter().map(|job| job.job.clone()).collect(),
            reporters: self.reporters(),
            guard_active: self.guard_active(),
            certificates: self.certificates(),
            instances: self.counted(),
        }
    }

    /// A pod in the words of the API server, as virt-operator reads them.
    fn pod(&self, pod: &SimPod) -> Pod {
        let init = pod.init.as_deref().unwrap_or("init");
        let at_start = pod.ready_since.is_none() && pod.life.container != Container::Ended;
        let container = match self.fault(pod) {
            Some(crate::Fault::InitCrashes) => init.to_owned(),
            Some(_) | None => pod.component.clone(),
        };
        let trouble = |container: Option<&str>, reason: &str, message: String| {
            let image = container.map(|_| pod.image.clone());
            Some(Trouble {
                container: container.map(str::to_owned),
                reason: reason.to_owned(),
                message,
                image,
            })
        };
        let trouble = match &pod.life.container {
            _ if !pod.bound && at_start && self.now > pod.created => {
                let message = format!("0/{} nodes are available: insufficient cpu.", self.nodes.len());
                trouble(None, "Unschedulable", message)
            }
            Container::Creating { .. } | Container::Running { .. } => None,
            Container::Ended => trouble(Some(&container), "Error", "exit code 1".to_owned()),
            Container::BackOff { reason, .. } => {
                let message = match *reason {
                    "CrashLoopBackOff" => "back-off restarting failed container".to_owned(),
                    _ => format!("{}: not found", pod.image),
                };
                trouble(Some(&container), reason, message)
            }
        };
        let crash = pod.life.crashed.map(|at| Crash { container, message: "exit code 1".to_owned(), at });
        Pod {
            component: pod.component.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            template_hash: pod.template_hash.clone(),
            release: Some(pod.release.clone()),
            created: pod.created,
            ready_since: pod.ready_since,
            unready_since: pod.unready_since,
            deleting_since: pod.deleting_since,
            restarts: pod.life.restarts,
            crash,
            trouble,
        }
    }

    /// Nodes that have been NotReady for so long that nobody waits for them.
    pub(crate) fn lost_nodes(&self) -> BTreeSet<String> {
        let lost = |node: &&SimNode| node.not_ready_since.is_some_and(|since| gate::is_lost(since, self.now));
        self.nodes.iter().filter(lost).map(|node| node.name.clone()).collect()
    }

    fn reporters(&self) -> Vec<Reporter> {
        let facts = |component: &str| -> Vec<PodFacts> {
            let pods = self.pods.iter().filter(|pod| pod.component == component);
            pods.map(|pod| PodFacts {
                name: pod.name.clone(),
                node: pod.node.clone().filter(|_| pod.bound),
                created: Some(pod.created),
                ending: !pod.lives(),
            })
            .collect()
        };
        let reports: Vec<Report> = self
            .pods
            .iter()
            .filter(|pod| pod.reported)
            .map(|pod| Report { pod: pod.name.clone(), release: pod.release.clone() })
            .collect();
        let wanted = match self.objects.keys().any(|key| key.kind == "DaemonSet") {
            true => self.nodes(),
            false => vec![],
        };
        gate::reporters(&facts("virt-controller"), &facts(HANDLER), &wanted, &self.lost_nodes(), &reports)
    }

    fn certificates(&self) -> Certificates {
        let map = self
            .objects
            .iter()
            .find(|(key, _)| key.kind == "ConfigMap" && key.name == labels::CONFIGMAP_CA)
            .map(|(_, live)| live);
        let pem = map.and_then(|live| live["data"][labels::CA_BUNDLE_KEY].as_str()).unwrap_or_default();
        let mut bundle: Vec<_> = pem
            .lines()
            .filter_map(|line| self.bundle_known.iter().find(|ca| ca.fingerprint == line))
            .cloned()
            .collect();
        bundle.sort_by_key(|ca| std::cmp::Reverse(ca.not_before));
        Certificates {
            ca: self.ca.clone(),
            leaves: self.leaves.clone(),
            bundle,
            published: map.and_then(Published::of),
            unread: false,
        }
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

/// A node in the words of the API server.
fn node(node: &SimNode) -> Node {
    let known = |name: &str, is: bool| is.then(|| name.to_owned());
    let annotations =
        [known(HEARTBEAT, node.heartbeat.is_some()), known(HANDLER_POD, node.handler_pod.is_some())];
    Node {
        handle: Handle {
            key: ObjectKey::cluster("v1", "Node", &node.name),
            uid: format!("uid-{}", node.name),
            resource_version: "1".into(),
        },
        not_ready_since: node.not_ready_since,
        ready_since: node.back_since.filter(|_| node.not_ready_since.is_none()),
        unschedulable: node.cordoned,
        schedulable_label: node.schedulable.map(str::to_owned),
        heartbeat: node.heartbeat,
        handler_pod: node.handler_pod.clone(),
        our_labels: known(SCHEDULABLE, node.schedulable.is_some()).into_iter().collect(),
        our_annotations: annotations.into_iter().flatten().collect(),
    }
}
