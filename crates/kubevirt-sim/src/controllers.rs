//! Kubernetes' own controllers and the kubelet, one second at a time.

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::InstallConfig;
use kubevirt_rollout::observed::{StrategyJobState, Trouble};
use kubevirt_types::{ObjectKey, Release, labels};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Fault, SimPod};

/// How long the API server takes to enforce a new admission policy.
const GUARD_DELAY: SignedDuration = SignedDuration::from_secs(2);
/// A pod is Ready after one to so many seconds.
const START_SECONDS: u64 = 4;

impl Cluster {
    /// One second passes.
    pub fn tick(&mut self) {
        self.now = self.now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(self.now);
        self.guard();
        self.definitions();
        self.run_jobs();
        self.run_pods();
        let workloads: Vec<(ObjectKey, Value)> = self
            .objects
            .iter()
            .filter(|(key, _)| matches!(key.kind.as_str(), "Deployment" | "DaemonSet"))
            .map(|(key, live)| (key.clone(), live.clone()))
            .collect();
        let names: Vec<&str> = workloads.iter().map(|(key, _)| key.name.as_str()).collect();
        let orphaned: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| pod.deleting_since.is_none() && !names.contains(&pod.component.as_str()))
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
            self.see(key);
        }
    }

    /// The controller has seen the object's generation.
    fn see(&mut self, key: &ObjectKey) {
        let nodes = self.nodes.len();
        let Some(live) = self.objects.get_mut(key) else { return };
        let seen = live["metadata"]["generation"].clone();
        if live["status"]["observedGeneration"] == seen {
            return;
        }
        live["status"]["observedGeneration"] = seen;
        if key.kind == "DaemonSet" {
            live["status"]["desiredNumberScheduled"] = json!(nodes);
        }
        let version = self.bump();
        if let Some(live) = self.objects.get_mut(key) {
            live["metadata"]["resourceVersion"] = json!(version);
        }
    }

    pub(crate) fn guard_active(&self) -> bool {
        self.guard_since.is_some_and(|since| self.now.duration_since(since) >= GUARD_DELAY)
    }

    fn guard(&mut self) {
        let has = |kind: &str| self.objects.keys().any(|key| key.kind == kind);
        if !(has("ValidatingAdmissionPolicy") && has("ValidatingAdmissionPolicyBinding")) {
            self.guard_since = None;
        } else if self.guard_since.is_none() {
            self.guard_since = Some(self.now);
        }
        if self.guard_since.is_some_and(|since| self.now.duration_since(since) == GUARD_DELAY) {
            self.version += 1;
        }
    }

    /// CRDs get established; their objects go while virt-controller can let them go; then they go.
    fn definitions(&mut self) {
        let serves = self.pods.iter().any(|pod| {
            pod.component == "virt-controller" && pod.ready_since.is_some() && pod.deleting_since.is_none()
        });
        if serves && self.instances.values().flatten().any(|(_, deleting)| *deleting) {
            self.version += 1;
            for all in self.instances.values_mut() {
                all.retain(|(_, deleting)| !deleting);
            }
        }
        let keys: Vec<ObjectKey> =
            self.objects.keys().filter(|key| key.kind == "CustomResourceDefinition").cloned().collect();
        for key in keys {
            let live = &self.objects[&key];
            let plural = live["spec"]["names"]["plural"].as_str().unwrap_or_default();
            if live.pointer("/metadata/deletionTimestamp").is_some() {
                if self.instances(plural) == 0 {
                    self.objects.remove(&key);
                    self.version += 1;
                }
            } else if live.pointer("/status/conditions").is_none() {
                let stored: Vec<Value> = live["spec"]["versions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|version| version["storage"] == true)
                    .map(|version| version["name"].clone())
                    .collect();
                let version = self.bump();
                if let Some(live) = self.objects.get_mut(&key) {
                    live["status"] = json!({
                        "conditions": [{"type": "Established", "status": "True"}],
                        "storedVersions": stored,
                    });
                    live["metadata"]["resourceVersion"] = json!(version);
                }
            }
        }
    }

    fn run_jobs(&mut self) {
        let mut stored = Vec::new();
        for (job, over) in &mut self.jobs {
            if job.state != StrategyJobState::Running || self.now < *over {
                continue;
            }
            self.version += 1;
            let tag = job.image.rsplit_once(':').map(|(_, tag)| tag);
            let release: Option<Release> = tag.and_then(|tag| tag.parse().ok());
            match release.filter(|release| self.images.contains(release)) {
                Some(release) => {
                    job.state = StrategyJobState::Succeeded { at: self.now };
                    stored.push((job.deployment_id.clone(), release));
                }
                None => {
                    job.state = StrategyJobState::Stuck(Trouble {
                        container: None,
                        reason: "ErrImagePull".into(),
                        message: "not found".into(),
                    });
                }
            }
        }
        for (id, release) in stored {
            let registry = self.kubevirt.as_ref().and_then(|kubevirt| kubevirt.spec.image_registry.clone());
            let mut config = InstallConfig { release, ..self.operator.clone() };
            if let Some(registry) = registry {
                config.registry = registry;
            }
            if config.id() == id {
                let set = self.manifests(&config);
                self.store(&set);
            }
        }
    }

    /// What this pod's image does wrong.
    pub(crate) fn fault(&self, pod: &SimPod) -> Option<Fault> {
        self.faults.get(&(pod.component.clone(), pod.release.clone())).copied()
    }

    fn run_pods(&mut self) {
        let now = self.now;
        let before = self.pods.len();
        self.pods.retain(|pod| pod.gone_at.is_none_or(|at| now < at));
        let mut changed = self.pods.len() != before;
        for index in 0..self.pods.len() {
            let starts = {
                let pod = &self.pods[index];
                pod.ready_since.is_none() && now >= pod.ready_at && self.fault(pod).is_none()
            };
            let pod = &mut self.pods[index];
            if starts {
                pod.ready_since = Some(now);
                changed = true;
            } else if pod.ready_since.is_some() && !pod.reported {
                pod.reported = true;
                changed = true;
            }
        }
        if changed {
            self.version += 1;
        }
    }

    fn start_pod(&mut self, key: &ObjectKey, live: &Value, node: String) {
        let template = &live["spec"]["template"]["metadata"];
        let uid = self.next_uid();
        let seconds = 1 + self.random.below(START_SECONDS);
        let ready_at = self
            .now
            .saturating_add(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(1)))
            .unwrap_or(self.now);
        self.pods.push(SimPod {
            component: key.name.clone(),
            name: format!("{}-{}", key.name, uid.trim_start_matches("uid-")),
            uid,
            node,
            template_hash: template["annotations"][labels::TEMPLATE_HASH].as_str().map(str::to_owned),
            release: template["labels"][labels::REPORT_VERSION]
                .as_str()
                .and_then(|release| release.parse().ok())
                .unwrap_or(Release::V0_17_0),
            created: self.now,
            ready_at,
            ready_since: None,
            deleting_since: None,
            gone_at: None,
            reported: false,
        });
    }

    fn delete_pod(&mut self, uid: &str) {
        let (now, gone_at): (Timestamp, _) = (self.now, self.now.saturating_add(self.drain).ok());
        self.version += 1;
        for pod in self.pods.iter_mut().filter(|pod| pod.uid == uid && pod.deleting_since.is_none()) {
            pod.deleting_since = Some(now);
            pod.gone_at = if pod.ready_since.is_some() { gone_at } else { Some(now) };
        }
    }

    /// Pods of a workload that aren't being deleted: those of its template, and others.
    fn split(&self, key: &ObjectKey, live: &Value) -> (Vec<SimPod>, Vec<SimPod>) {
        let hash = live["spec"]["template"]["metadata"]["annotations"][labels::TEMPLATE_HASH].as_str();
        self.pods
            .iter()
            .filter(|pod| pod.component == key.name && pod.deleting_since.is_none())
            .cloned()
            .partition(|pod| pod.template_hash.as_deref() == hash)
    }

    /// maxUnavailable 0 and maxSurge 1, as our Deployments have it.
    fn run_deployment(&mut self, key: &ObjectKey, live: &Value) {
        let wanted = live["spec"]["replicas"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        let (new, old) = self.split(key, live);
        let ready = |pods: &[SimPod]| pods.iter().filter(|pod| pod.ready_since.is_some()).count();
        let surplus = ready(&new) + ready(&old) > wanted;
        if let Some(broken) = old.iter().find(|pod| pod.ready_since.is_none()) {
            self.delete_pod(&broken.uid);
        } else if let (true, Some(oldest)) = (surplus, old.first()) {
            self.delete_pod(&oldest.uid);
        } else if new.len() < wanted && new.len() + old.len() <= wanted {
            let node = self.nodes[new.len() % self.nodes.len()].name.clone();
            self.start_pod(key, live, node);
        }
    }

    /// Surge: on a node the successor is there before its predecessor goes.
    fn run_daemon_set(&mut self, key: &ObjectKey, live: &Value) {
        let (new, old) = self.split(key, live);
        let surge = match &live["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] {
            Value::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            Value::String(percent) => {
                let percent: usize = percent.trim_end_matches('%').parse().unwrap_or(10);
                (self.nodes.len() * percent).div_ceil(100)
            }
            _ => 1,
        };
        let min_ready = SignedDuration::from_secs(live["spec"]["minReadySeconds"].as_i64().unwrap_or(0));
        let mut surging = 0;
        let mut waiting = Vec::new();
        for node in self.nodes.clone() {
            let of = |pods: &[SimPod]| pods.iter().find(|pod| pod.node == node.name).cloned();
            match (of(&new), of(&old)) {
                (Some(new), Some(old)) => {
                    let available =
                        new.ready_since.is_some_and(|since| self.now.duration_since(since) >= min_ready);
                    if available {
                        self.delete_pod(&old.uid);
                    } else {
                        surging += 1;
                    }
                }
                (None, Some(old)) if old.ready_since.is_some() => waiting.push(node.name),
                (None, _) => self.start_pod(key, live, node.name),
                (Some(_), None) => {}
            }
        }
        for node in waiting.into_iter().take(surge.saturating_sub(surging)) {
            self.start_pod(key, live, node);
        }
    }
}
