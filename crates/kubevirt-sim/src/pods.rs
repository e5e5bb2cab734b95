//! Pods and nodes, second by second: the scheduler, every node's kubelet, the node controller, and the lock that the
//! virt-handlers of a node pass on.

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{ObjectKey, Release, labels};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubelet::{self, Charge, Container, Life};
use crate::misfortune::{EVICTION, Fault, NODE_GRACE};

/// A pod answers its probe after one to so many seconds.
const START_SECONDS: u64 = 3;
/// Between two heartbeats of a virt-handler.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(60);
/// The component that a node's lock is about.
pub(crate) const HANDLER: &str = "virt-handler";

/// One pod of the control plane.
#[derive(Debug, Clone, PartialEq)]
pub struct SimPod {
    pub(crate) component: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Where it is bound, or where its DaemonSet wants it.
    pub(crate) node: Option<String>,
    pub(crate) bound: bool,
    pub(crate) image: String,
    /// Its first init container.
    pub(crate) init: Option<String>,
    pub(crate) template_hash: Option<String>,
    pub(crate) release: Release,
    pub(crate) created: Timestamp,
    pub(crate) life: Life,
    /// How long after its start it answers its probe.
    pub(crate) answers_after: SignedDuration,
    pub(crate) ready_since: Option<Timestamp>,
    pub(crate) unready_since: Option<Timestamp>,
    pub(crate) deleting_since: Option<Timestamp>,
    pub(crate) gone_at: Option<Timestamp>,
    pub(crate) reported: bool,
}

impl SimPod {
    /// Nobody has asked for its deletion.
    pub(crate) fn lives(&self) -> bool {
        self.deleting_since.is_none()
    }

    /// It is Ready, and lives.
    pub(crate) fn serves(&self) -> bool {
        self.ready_since.is_some() && self.lives()
    }

    /// It runs and answers.
    fn answers(&self, now: Timestamp) -> bool {
        matches!(self.life.container, Container::Running { since }
            if now.duration_since(since) >= self.answers_after)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct SimNode {
    pub(crate) name: String,
    /// Its kubelet is silent.
    pub(crate) silent_since: Option<Timestamp>,
    pub(crate) not_ready_since: Option<Timestamp>,
    /// When its kubelet came back last.
    pub(crate) back_since: Option<Timestamp>,
    pub(crate) cordoned: bool,
    /// The virt-handler that holds the lock, by uid, and since when.
    pub(crate) holder: Option<(String, Timestamp)>,
    /// Label `kubevirt.io/schedulable`.
    pub(crate) schedulable: Option<&'static str>,
    /// Annotation `kubevirt.io/heartbeat`.
    pub(crate) heartbeat: Option<Timestamp>,
    /// Annotation `kubevirt.io/handler-pod`.
    pub(crate) handler_pod: Option<String>,
}

impl SimNode {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            silent_since: None,
            not_ready_since: None,
            back_since: None,
            cordoned: false,
            holder: None,
            schedulable: None,
            heartbeat: None,
            handler_pod: None,
        }
    }

    /// Its kubelet is there.
    pub(crate) fn works(&self) -> bool {
        self.silent_since.is_none()
    }
}

impl Cluster {
    /// One second of the scheduler, the node controller and the kubelets.
    pub(crate) fn run_pods(&mut self) {
        let before = (self.pods.clone(), self.nodes.clone());
        self.watch_nodes();
        self.schedule();
        let working: Vec<String> =
            self.nodes.iter().filter(|node| node.works()).map(|node| node.name.clone()).collect();
        for node in &working {
            self.run_kubelet(node);
            self.pass_lock(node);
            self.probe(node);
        }
        if (&self.pods, &self.nodes) != (&before.0, &before.1) {
            self.version += 1;
        }
    }

    /// The node controller: a silent node is NotReady after a while, and then its pods are unready, and then evicted.
    fn watch_nodes(&mut self) {
        let now = self.now;
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            let name = node.name.clone();
            match (node.silent_since, node.not_ready_since) {
                (None, Some(_)) => node.not_ready_since = None,
                (Some(since), None) if now.duration_since(since) >= NODE_GRACE => {
                    node.not_ready_since = Some(now);
                    self.misfortunes += 1;
                    for pod in self.pods.iter_mut().filter(|pod| pod.node.as_deref() == Some(&name)) {
                        unready(pod, now);
                    }
                }
                (Some(_), Some(since)) if now.duration_since(since) >= EVICTION => {
                    let evicted: Vec<String> = self
                        .pods
                        .iter()
                        .filter(|pod| pod.node.as_deref() == Some(&name) && pod.component != HANDLER)
                        .map(|pod| pod.uid.clone())
                        .collect();
                    for uid in evicted {
                        self.delete_pod(&uid);
                    }
                }
                (None, None) | (Some(_), _) => {}
            }
        }
    }

    /// Binds what has no node yet: a DaemonSet's pod where it is wanted, another where the fewest of its kind are.
    fn schedule(&mut self) {
        for index in 0..self.pods.len() {
            let pod = &self.pods[index];
            if pod.bound || self.fault(pod) == Some(Fault::Unschedulable) {
                continue;
            }
            let place = pod.node.clone().or_else(|| {
                let company = |name: &str| {
                    self.pods
                        .iter()
                        .filter(|other| {
                            other.component == pod.component && other.node.as_deref() == Some(name)
                        })
                        .count()
                };
                self.nodes
                    .iter()
                    .filter(|node| node.not_ready_since.is_none() && !node.cordoned)
                    .map(|node| &node.name)
                    .min_by_key(|name| company(name))
                    .cloned()
            });
            if let Some(place) = place {
                let until = self.now;
                let pod = &mut self.pods[index];
                pod.node = Some(place);
                pod.bound = true;
                pod.life.container = Container::Creating { until };
            }
        }
    }

    /// Containers start, crash and end.
    fn run_kubelet(&mut self, node: &str) {
        let (now, drain) = (self.now, self.drain);
        let here = |pod: &SimPod| pod.bound && pod.node.as_deref() == Some(node);
        self.pods.retain(|pod| !here(pod) || pod.gone_at.is_none_or(|at| now < at));
        for index in 0..self.pods.len() {
            if !here(&self.pods[index]) {
                continue;
            }
            let fault = self.fault(&self.pods[index]);
            let pod = &mut self.pods[index];
            if pod.deleting_since.is_some() {
                let carries = pod.ready_since.is_some() || pod.answers(now);
                let over = if carries { now.saturating_add(drain).unwrap_or(now) } else { now };
                pod.gone_at.get_or_insert(over);
            }
            let next = kubelet::step(&pod.life, fault, pod.ready_since, now);
            if next.crashed != pod.life.crashed && pod.ready_since.is_some() {
                self.misfortunes += 1;
            }
            pod.life = next;
        }
    }

    /// The node's lock: whoever ends or is told to end gives it back, and the oldest that answers takes it. A second
    /// later it says so on its node, and then every minute.
    fn pass_lock(&mut self, name: &str) {
        let now = self.now;
        let able = |pod: &&SimPod| {
            pod.component == HANDLER
                && pod.bound
                && pod.lives()
                && pod.node.as_deref() == Some(name)
                && pod.answers(now)
        };
        let Some(at) = self.nodes.iter().position(|node| node.name == name) else { return };
        let held = self.nodes[at].holder.as_ref().map(|(uid, _)| uid.clone());
        let holder = match held {
            Some(uid) if self.pods.iter().filter(able).any(|pod| pod.uid == uid) => Some(uid),
            Some(_) | None => {
                let next = self.pods.iter().filter(able).min_by_key(|pod| pod.created);
                let next = next.map(|pod| pod.uid.clone());
                self.nodes[at].holder = next.map(|uid| (uid, now));
                return;
            }
        };
        let Some(pod) = self.pods.iter().find(|pod| Some(&pod.uid) == holder.as_ref()) else { return };
        let (fault, pod_name) = (self.fault(pod), pod.name.clone());
        let node = &mut self.nodes[at];
        let mine = node.handler_pod.as_deref() == Some(&pod_name);
        let fresh = node.heartbeat.is_some_and(|at| now.duration_since(at) < HEARTBEAT);
        if fault == Some(Fault::Silent) || (mine && fresh) {
            return;
        }
        node.heartbeat = Some(now);
        node.handler_pod = Some(pod_name);
        node.schedulable = Some(if fault == Some(Fault::NodeUnable) { "false" } else { "true" });
    }

    /// Readiness, and a second later the version report.
    fn probe(&mut self, name: &str) {
        let now = self.now;
        let Some(node) = self.nodes.iter().find(|node| node.name == name).cloned() else { return };
        for index in 0..self.pods.len() {
            let pod = &self.pods[index];
            if !pod.bound || pod.node.as_deref() != Some(name) {
                continue;
            }
            let charge = match &node.holder {
                _ if pod.component != HANDLER => Charge::None,
                Some((uid, since)) if *uid == pod.uid => {
                    let said = node.handler_pod.as_deref() == Some(&pod.name);
                    Charge::Holding { since: *since, said }
                }
                Some(_) | None => Charge::Standby,
            };
            let was = pod.ready_since.is_some();
            let ready =
                pod.answers(now) && pod.lives() && kubelet::is_ready(charge, self.fault(pod), was, now);
            let pod = &mut self.pods[index];
            if ready && !was {
                (pod.ready_since, pod.unready_since) = (Some(now), None);
            } else if !ready && was && pod.lives() {
                unready(pod, now);
                self.misfortunes += 1;
            } else if ready {
                pod.reported = true;
            }
        }
    }

    /// Makes a pod of a workload's template.
    pub(crate) fn make_pod(&mut self, key: &ObjectKey, template: &Value, node: Option<String>) {
        let metadata = &template["metadata"];
        let text = |pointer: &str| template.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let uid = self.next_uid();
        let seconds = 1 + self.random.below(START_SECONDS);
        self.version += 1;
        self.pods.push(SimPod {
            component: key.name.clone(),
            name: format!("{}-{}", key.name, uid.trim_start_matches("uid-")),
            uid,
            node,
            bound: false,
            image: text("/spec/containers/0/image").unwrap_or_default(),
            init: text("/spec/initContainers/0/name"),
            template_hash: metadata["annotations"][labels::TEMPLATE_HASH].as_str().map(str::to_owned),
            release: metadata["labels"][labels::REPORT_VERSION]
                .as_str()
                .and_then(|release| release.parse().ok())
                .unwrap_or(Release::V0_17_0),
            created: self.now,
            life: Life { container: Container::Creating { until: self.now }, restarts: 0, crashed: None },
            answers_after: SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(1)),
            ready_since: None,
            unready_since: Some(self.now),
            deleting_since: None,
            gone_at: None,
            reported: false,
        });
    }

    /// Asks for a pod's deletion. One that has no node is gone at once.
    pub(crate) fn delete_pod(&mut self, uid: &str) {
        self.version += 1;
        let now = self.now;
        self.pods.retain(|pod| pod.uid != uid || pod.bound);
        for pod in self.pods.iter_mut().filter(|pod| pod.uid == uid) {
            pod.deleting_since.get_or_insert(now);
        }
    }
}

fn unready(pod: &mut SimPod, now: Timestamp) {
    if pod.ready_since.take().is_some() {
        pod.unready_since = Some(now);
    }
}
