//! Kubernetes around the pods, one second at a time: admission policies, CustomResourceDefinitions, Jobs.

use jiff::SignedDuration;
use kubevirt_manifests::ManifestSet;
use kubevirt_rollout::observed::{StrategyJobState, Trouble};
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::cluster::Cluster;

/// How long the API server takes to enforce a new admission policy.
pub(crate) const GUARD_DELAY: SignedDuration = SignedDuration::from_secs(2);

impl Cluster {
    /// One second passes.
    pub fn tick(&mut self) {
        self.now = self.now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(self.now);
        self.guard();
        self.definitions();
        self.run_jobs();
        self.run_pods();
        self.run_workloads();
    }

    /// Why the guard refuses a new object of this kind; none when it doesn't.
    pub fn guard_refuses(&self, plural: &str) -> Option<String> {
        if !self.guard_active() {
            return None;
        }
        let policy = self.objects.iter().find(|(key, _)| key.kind == "ValidatingAdmissionPolicy")?.1;
        let expression = format!("request.resource.resource != '{plural}'");
        policy["spec"]["validations"]
            .as_array()?
            .iter()
            .find(|validation| validation["expression"] == expression)
            .map(|validation| validation["message"].as_str().unwrap_or_default().to_owned())
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
        let serves = self.pods.iter().any(|pod| pod.component == "virt-controller" && pod.serves());
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
        let mut made = Vec::new();
        for job in &mut self.jobs {
            if job.job.state != StrategyJobState::Running || self.now < job.over {
                continue;
            }
            self.version += 1;
            let tag = job.job.image.rsplit_once(':').map(|(_, tag)| tag);
            let release: Option<Release> = tag.and_then(|tag| tag.parse().ok());
            if release.is_some_and(|release| self.images.contains(&release)) {
                job.job.state = StrategyJobState::Succeeded { at: self.now };
                made.extend(job.config.clone());
            } else {
                job.job.state = StrategyJobState::Stuck(Trouble {
                    container: None,
                    reason: "ErrImagePull".into(),
                    message: "not found".into(),
                    image: None,
                });
            }
        }
        for config in made {
            let set: Arc<ManifestSet> = self.manifests(&config);
            self.store(&set);
        }
    }
}
