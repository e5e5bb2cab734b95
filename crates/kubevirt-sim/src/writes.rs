//! Writes, as the API server takes them: with preconditions, conflicts and new resourceVersions.

use std::sync::Arc;

use jiff::SignedDuration;
use kubevirt_manifests::ManifestSet;
use kubevirt_rollout::observed::{
    CaCertificate, Certificate, CertificateContent, Handle, StrategyJob, StrategyJobState,
};
use kubevirt_rollout::{Precondition, Step};
use kubevirt_types::labels::{HANDLER_POD, HEARTBEAT, SCHEDULABLE};
use kubevirt_types::{KubeVirt, ObjectKey, labels};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SimJob};

/// Why a write was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object is not as it was seen.
    #[error("{step}: conflict")]
    Conflict {
        #[allow(missing_docs)]
        step: String,
    },
}

/// Where a certificate's validity begins before its issue.
const BACKDATING: SignedDuration = SignedDuration::from_mins(5);
/// How long the strategy's Job takes.
const JOB: SignedDuration = SignedDuration::from_secs(3);

impl Cluster {
    /// Carries out one step.
    ///
    /// # Errors
    /// When the step's precondition doesn't hold any more. Nothing has changed then.
    pub fn write(&mut self, step: &Step) -> Result<(), WriteError> {
        let conflict = || WriteError::Conflict { step: step.to_string() };
        let done = match step {
            Step::Apply { manifest, precondition } => self.apply(&manifest.key, &manifest.body, precondition),
            Step::Delete { key, uid, resource_version, .. } => self.delete(key, uid, resource_version),
            Step::DeleteInstances { plural, .. } => {
                for (_, deleting) in self.instances.entry(plural.clone()).or_default() {
                    *deleting = true;
                }
                Some(())
            }
            Step::CreateStrategyJob { manifest } => self.create_job(&manifest.key, &manifest.body),
            Step::StoreStrategy { set } => {
                self.store(&Arc::new(ManifestSet::clone(set)));
                Some(())
            }
            Step::IssueCa { secret, common_name, duration, precondition } => {
                self.issue_ca(secret, common_name, *duration, precondition)
            }
            Step::IssueLeaf { .. } => self.issue_leaf(step),
            Step::AddFinalizer { finalizer, uid, resource_version } => {
                self.with_kubevirt(uid, Some(resource_version), |kubevirt| {
                    kubevirt.metadata.finalizers.get_or_insert_default().push(finalizer.clone());
                })
            }
            Step::RemoveFinalizer { finalizer, uid, .. } => {
                let done = self.with_kubevirt(uid, None, |kubevirt| {
                    kubevirt.metadata.finalizers.get_or_insert_default().retain(|f| f != finalizer);
                });
                let gone = |kubevirt: &KubeVirt| {
                    kubevirt.is_deleting() && kubevirt.metadata.finalizers.iter().flatten().next().is_none()
                };
                if self.kubevirt.as_ref().is_some_and(gone) {
                    self.kubevirt = None;
                }
                done
            }
            Step::MigrateStorage { crd, version, uid, resource_version, .. } => {
                self.forget_stored_versions(crd, version, uid, resource_version)
            }
            Step::CleanNode { node, labels, annotations, .. } => {
                for known in self.nodes.iter_mut().filter(|known| known.name == *node) {
                    if labels.iter().any(|label| label == SCHEDULABLE) {
                        known.schedulable = None;
                    }
                    if annotations.iter().any(|annotation| annotation == HEARTBEAT) {
                        known.heartbeat = None;
                    }
                    if annotations.iter().any(|annotation| annotation == HANDLER_POD) {
                        known.handler_pod = None;
                    }
                }
                Some(())
            }
        };
        done.ok_or_else(conflict)?;
        self.version += 1;
        self.log.push(step.to_string());
        Ok(())
    }

    /// Writes the KubeVirt object's status.
    pub fn write_status(&mut self, status: kubevirt_types::kubevirt::KubeVirtStatus) {
        let version = self.bump();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.metadata.resource_version = Some(version);
            kubevirt.status = Some(status);
        }
    }

    fn apply(&mut self, key: &ObjectKey, body: &Value, precondition: &Precondition) -> Option<()> {
        let live = self.objects.get(key).cloned();
        match (precondition, &live) {
            (Precondition::Absent, None) => {}
            (Precondition::Unchanged { uid, resource_version }, Some(live))
                if live["metadata"]["uid"] == *uid
                    && live["metadata"]["resourceVersion"] == *resource_version => {}
            (Precondition::Absent | Precondition::Unchanged { .. }, _) => return None,
        }
        let mut object = body.clone();
        let version = self.bump();
        object["metadata"]["resourceVersion"] = json!(version);
        match live {
            None => {
                object["metadata"]["uid"] = json!(self.next_uid());
                object["metadata"]["generation"] = json!(1);
            }
            Some(live) => {
                let was = live["metadata"]["generation"].as_u64().unwrap_or(1);
                let same = live["spec"] == object["spec"] && live["webhooks"] == object["webhooks"];
                object["metadata"]["uid"] = live["metadata"]["uid"].clone();
                object["metadata"]["generation"] = json!(if same { was } else { was + 1 });
                if let Some(status) = live.get("status") {
                    object["status"] = status.clone();
                    store_also(&mut object);
                }
            }
        }
        self.objects.insert(key.clone(), object);
        self.refresh_bundle(key);
        Some(())
    }

    /// Every object of the CRD's kind is stored as this version now.
    fn forget_stored_versions(
        &mut self,
        crd: &ObjectKey,
        stored: &str,
        uid: &str,
        resource_version: &str,
    ) -> Option<()> {
        let version = self.bump();
        let live = self.objects.get_mut(crd).filter(|live| {
            live["metadata"]["uid"] == uid && live["metadata"]["resourceVersion"] == resource_version
        })?;
        live["metadata"]["resourceVersion"] = json!(version);
        live["status"]["storedVersions"] = json!([stored]);
        Some(())
    }

    /// Remembers CAs as anybody can read them out of the bundle.
    fn refresh_bundle(&mut self, key: &ObjectKey) {
        if key.kind != "ConfigMap" || key.name != labels::CONFIGMAP_CA {
            return;
        }
        if let Some(content) = self.ca.as_ref().and_then(|ca| ca.content.as_ref())
            && self.bundle_known.iter().all(|known| known.fingerprint != content.fingerprint)
        {
            self.bundle_known.push(CaCertificate {
                fingerprint: content.fingerprint.clone(),
                not_before: content.not_before,
                not_after: content.not_after,
                pem: content.pem.clone(),
            });
        }
    }

    fn delete(&mut self, key: &ObjectKey, uid: &str, resource_version: &str) -> Option<()> {
        let matches = |handle: &Handle| {
            handle.key == *key && handle.uid == uid && handle.resource_version == resource_version
        };
        if let Some(live) = self.objects.get_mut(key) {
            if live["metadata"]["uid"] != uid || live["metadata"]["resourceVersion"] != resource_version {
                return None;
            }
            if key.kind == "CustomResourceDefinition" {
                live["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                let plural = live["spec"]["names"]["plural"].as_str().unwrap_or_default().to_owned();
                for (_, deleting) in self.instances.entry(plural).or_default() {
                    *deleting = true;
                }
            } else {
                self.objects.remove(key);
            }
            return Some(());
        }
        let before =
            self.jobs.len() + self.strategies.len() + self.leaves.len() + usize::from(self.ca.is_some());
        self.jobs.retain(|job| !matches(&job.job.handle));
        self.strategies.retain(|_, (handle, _)| !matches(handle));
        self.leaves.retain(|_, leaf| !matches(&leaf.handle));
        self.ca = self.ca.take().filter(|ca| !matches(&ca.handle));
        let after =
            self.jobs.len() + self.strategies.len() + self.leaves.len() + usize::from(self.ca.is_some());
        (after < before).then_some(())
    }

    fn handle(&mut self, key: &ObjectKey) -> Handle {
        Handle { key: key.clone(), uid: self.next_uid(), resource_version: self.bump() }
    }

    fn create_job(&mut self, key: &ObjectKey, body: &Value) -> Option<()> {
        if self.jobs.iter().any(|job| job.job.handle.key == *key) {
            return None;
        }
        let text =
            |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let handle = self.handle(key);
        let job = StrategyJob {
            handle,
            deployment_id: body["metadata"]["annotations"][labels::INSTALL_IDENTIFIER]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            image: text("/spec/template/spec/containers/0/image"),
            state: StrategyJobState::Running,
            deleting: false,
        };
        let env = body.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
        let config = env
            .into_iter()
            .flatten()
            .find(|variable| variable["name"] == "TARGET_DEPLOYMENT_CONFIG")
            .and_then(|variable| serde_json::from_str(variable["value"].as_str()?).ok());
        let over = self.now.saturating_add(JOB).unwrap_or(self.now);
        self.jobs.push(SimJob { job, config, over });
        Some(())
    }

    pub(crate) fn store(&mut self, set: &Arc<ManifestSet>) {
        let id = set.config.id();
        let name = format!("kubevirt-install-strategy-{id}");
        let key = ObjectKey::namespaced("v1", "ConfigMap", &set.config.namespace, &name);
        let handle = self.handle(&key);
        self.strategies.insert(id, (handle, set.clone()));
    }

    fn certificate(
        &mut self,
        secret: &ObjectKey,
        precondition: &Precondition,
        live: Option<&Handle>,
    ) -> Option<Handle> {
        match (precondition, live) {
            (Precondition::Absent, None) => Some(self.handle(secret)),
            (Precondition::Unchanged { uid, resource_version }, Some(live))
                if live.uid == *uid && live.resource_version == *resource_version =>
            {
                let resource_version = self.bump();
                Some(Handle { key: secret.clone(), uid: uid.clone(), resource_version })
            }
            (Precondition::Absent | Precondition::Unchanged { .. }, _) => None,
        }
    }

    fn content(
        &mut self,
        common_name: &str,
        duration: SignedDuration,
        signed_by: Option<String>,
    ) -> CertificateContent {
        let fingerprint = format!("certificate-{}", self.next_uid());
        CertificateContent {
            pem: format!("{fingerprint}\n"),
            signed_by: signed_by.or_else(|| Some(fingerprint.clone())),
            fingerprint,
            common_name: common_name.to_owned(),
            dns_names: vec![],
            not_before: self.now.saturating_sub(BACKDATING).unwrap_or(self.now),
            not_after: self.now.saturating_add(duration).unwrap_or(self.now),
            duration: Some(kubevirt_rollout::duration::format(duration)),
        }
    }

    fn issue_ca(
        &mut self,
        secret: &ObjectKey,
        common_name: &str,
        duration: SignedDuration,
        precondition: &Precondition,
    ) -> Option<()> {
        let live = self.ca.as_ref().map(|ca| ca.handle.clone());
        let handle = self.certificate(secret, precondition, live.as_ref())?;
        let content = self.content(common_name, duration, None);
        self.ca = Some(Certificate { handle, content: Some(content) });
        Some(())
    }

    fn issue_leaf(&mut self, step: &Step) -> Option<()> {
        let Step::IssueLeaf {
            secret, common_name, dns_names, duration, ca_fingerprint, precondition, ..
        } = step
        else {
            return None;
        };
        let ca = self.ca.as_ref()?.content.as_ref()?;
        if ca.fingerprint != *ca_fingerprint {
            return None;
        }
        let live = self.leaves.get(&secret.name).map(|leaf| leaf.handle.clone());
        let handle = self.certificate(secret, precondition, live.as_ref())?;
        let mut content = self.content(common_name, *duration, Some(ca_fingerprint.clone()));
        content.dns_names.clone_from(dns_names);
        self.leaves.insert(secret.name.clone(), Certificate { handle, content: Some(content) });
        Some(())
    }

    fn with_kubevirt(
        &mut self,
        uid: &str,
        resource_version: Option<&str>,
        change: impl FnOnce(&mut KubeVirt),
    ) -> Option<()> {
        let version = self.bump();
        let kubevirt = self.kubevirt.as_mut().filter(|kubevirt| {
            kubevirt.uid() == uid
                && resource_version
                    .is_none_or(|seen| kubevirt.metadata.resource_version.as_deref() == Some(seen))
        })?;
        change(kubevirt);
        kubevirt.metadata.resource_version = Some(version);
        Some(())
    }
}

/// A CRD's status names every version that objects may be stored as: that of the spec, and those before it.
fn store_also(crd: &mut Value) {
    let storage = crd["spec"]["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else { return };
    if let Some(stored) = crd.pointer_mut("/status/storedVersions").and_then(Value::as_array_mut)
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}
