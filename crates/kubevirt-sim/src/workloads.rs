//! Deployments and the DaemonSet: what their controllers see, and what they do with the pods.

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::daemon_set::{self, DaemonPod, MaxSurge};
use crate::deployment::{self, Rank, Set, Spec};
use crate::pods::SimPod;

/// A ReplicaSet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReplicaSet {
    pub(crate) deployment: String,
    pub(crate) hash: Option<String>,
    pub(crate) template: Value,
    pub(crate) replicas: usize,
    pub(crate) min_ready: SignedDuration,
}

fn template_hash(live: &Value) -> Option<&str> {
    live["spec"]["template"]["metadata"]["annotations"][labels::TEMPLATE_HASH].as_str()
}

fn min_ready(live: &Value) -> SignedDuration {
    SignedDuration::from_secs(live["spec"]["minReadySeconds"].as_i64().unwrap_or(0))
}

/// Whether a pod has been Ready for long enough.
pub(crate) fn is_available(pod: &SimPod, min_ready: SignedDuration, now: Timestamp) -> bool {
    pod.ready_since.is_some_and(|since| now.duration_since(since) >= min_ready)
}

/// A DaemonSet's maxSurge, one where it says none; none when it replaces nothing by itself.
fn max_surge(live: &Value) -> Option<MaxSurge> {
    let strategy = &live["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return None;
    }
    Some(match &strategy["rollingUpdate"]["maxSurge"] {
        Value::String(percent) => MaxSurge::Percent(percent.trim_end_matches('%').parse().unwrap_or(0)),
        number => MaxSurge::Number(count(number, 1)),
    })
}

fn count(value: &Value, otherwise: usize) -> usize {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(otherwise)
}

impl Cluster {
    /// One step of every workload's controller. The pods of a workload that is gone go too.
    pub(crate) fn run_workloads(&mut self) {
        let workloads: Vec<(ObjectKey, Value)> = self
            .objects
            .iter()
            .filter(|(key, _)| matches!(key.kind.as_str(), "Deployment" | "DaemonSet"))
            .map(|(key, live)| (key.clone(), live.clone()))
            .collect();
        let exists = |name: &str| workloads.iter().any(|(key, _)| key.name == name);
        self.replica_sets.retain(|set| exists(&set.deployment));
        let orphaned: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| pod.lives() && !exists(&pod.component))
            .map(|pod| pod.uid.clone())
            .collect();
        for uid in orphaned {
            self.delete_pod(&uid);
        }
        for (key, live) in &workloads {
            match key.kind.as_str() {
                "Deployment" => self.run_deployment(key, live),
                _ => self.run_daemon_set(key, live),
            }
            self.tell(key, live);
        }
    }

    fn of<'a>(&'a self, component: &'a str) -> impl Iterator<Item = &'a SimPod> {
        self.pods.iter().filter(move |pod| pod.component == component)
    }

    fn run_deployment(&mut self, key: &ObjectKey, live: &Value) {
        let now = self.now;
        let hash = template_hash(live).map(str::to_owned);
        let new_at = self
            .replica_sets
            .iter()
            .position(|set| set.deployment == key.name && set.hash == hash)
            .unwrap_or_else(|| {
                self.replica_sets.push(ReplicaSet {
                    deployment: key.name.clone(),
                    hash: hash.clone(),
                    template: live["spec"]["template"].clone(),
                    replicas: 0,
                    min_ready: min_ready(live),
                });
                self.replica_sets.len() - 1
            });
        self.replica_sets[new_at].min_ready = min_ready(live);
        let old_at: Vec<usize> = (0..self.replica_sets.len())
            .filter(|at| *at != new_at && self.replica_sets[*at].deployment == key.name)
            .collect();
        let see = |at: usize| {
            let set = &self.replica_sets[at];
            let available = self
                .of(&key.name)
                .filter(|pod| pod.lives() && pod.template_hash == set.hash)
                .filter(|pod| is_available(pod, set.min_ready, now))
                .count();
            Set { replicas: set.replicas, available }
        };
        let rolling = &live["spec"]["strategy"]["rollingUpdate"];
        let spec = Spec {
            replicas: count(&live["spec"]["replicas"], 1),
            max_surge: count(&rolling["maxSurge"], 1),
            max_unavailable: count(&rolling["maxUnavailable"], 0),
        };
        let old: Vec<Set> = old_at.iter().copied().map(see).collect();
        let scale = match live["spec"]["paused"] == true {
            true => deployment::Scale::same(see(new_at), &old),
            false => deployment::step(spec, see(new_at), &old),
        };
        for (at, replicas) in old_at.into_iter().zip(scale.old).chain([(new_at, scale.new)]) {
            self.replica_sets[at].replicas = replicas;
            self.run_replica_set(key, at);
        }
    }

    fn run_replica_set(&mut self, key: &ObjectKey, at: usize) {
        let now = self.now;
        let set = self.replica_sets[at].clone();
        let (uids, ranks): (Vec<String>, Vec<Rank>) = self
            .of(&key.name)
            .filter(|pod| pod.lives() && pod.template_hash == set.hash)
            .map(|pod| {
                let since = pod.ready_since.unwrap_or(pod.created);
                let rank = Rank {
                    bound: pod.bound,
                    ready: pod.ready_since.is_some(),
                    age: now.duration_since(since).as_secs(),
                };
                (pod.uid.clone(), rank)
            })
            .unzip();
        let (made, deleted) = deployment::replicas(set.replicas, &ranks);
        for at in deleted {
            self.delete_pod(&uids[at]);
        }
        for _ in 0..made {
            self.make_pod(key, &set.template, None);
        }
    }

    fn run_daemon_set(&mut self, key: &ObjectKey, live: &Value) {
        let (now, hash, wait) = (self.now, template_hash(live), min_ready(live));
        let mut nodes: Vec<(String, Vec<DaemonPod>)> = self
            .nodes
            .iter()
            .map(|node| {
                let here = self.of(&key.name).filter(|pod| pod.node.as_deref() == Some(&node.name));
                let pods = here.map(|pod| DaemonPod {
                    uid: pod.uid.clone(),
                    new: pod.template_hash.as_deref() == hash,
                    ready: pod.ready_since.is_some(),
                    available: is_available(pod, wait, now),
                    deleting: !pod.lives(),
                });
                (node.name.clone(), pods.collect())
            })
            .collect();
        // the controller goes through its nodes in no order
        for at in (1..nodes.len()).rev() {
            let limit = u64::try_from(at + 1).unwrap_or(u64::MAX);
            let other = usize::try_from(self.random.below(limit)).unwrap_or(at);
            nodes.swap(at, other);
        }
        let actions = daemon_set::step(max_surge(live), &nodes);
        for uid in actions.delete {
            self.delete_pod(&uid);
        }
        for node in actions.create {
            self.make_pod(key, &live["spec"]["template"], Some(node));
        }
    }

    /// The workload's status, as its controller writes it.
    fn tell(&mut self, key: &ObjectKey, live: &Value) {
        let (now, hash, wait) = (self.now, template_hash(live), min_ready(live));
        let pods: Vec<&SimPod> = self.of(&key.name).filter(|pod| pod.lives()).collect();
        let number = |wanted: &dyn Fn(&SimPod) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
        let updated = number(&|pod| pod.template_hash.as_deref() == hash);
        let ready = number(&|pod| pod.ready_since.is_some());
        let available = number(&|pod| is_available(pod, wait, now));
        let status = if key.kind == "DaemonSet" {
            json!({
                "observedGeneration": live["metadata"]["generation"],
                "desiredNumberScheduled": self.nodes.len(),
                "currentNumberScheduled": self.nodes.len().min(pods.len()),
                "updatedNumberScheduled": updated,
                "numberReady": ready.min(self.nodes.len()),
                "numberAvailable": available.min(self.nodes.len()),
            })
        } else {
            json!({
                "observedGeneration": live["metadata"]["generation"],
                "replicas": pods.len(),
                "updatedReplicas": updated,
                "readyReplicas": ready,
                "availableReplicas": available,
            })
        };
        if live["status"] == status {
            return;
        }
        let version = self.bump();
        if let Some(live) = self.objects.get_mut(key) {
            live["status"] = status;
            live["metadata"]["resourceVersion"] = json!(version);
        }
    }
}
