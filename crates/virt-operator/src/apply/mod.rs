//! Carries out the steps of a plan, in order, and stops at the first that can't be.
//!
//! The only writer of the cluster, but for the status. It decides nothing: each step says what to
//! write and what must still be true; a step that comes too late is refused by the API server.

mod migrate;
pub mod request;
pub mod secret;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kubevirt_observe::kinds::{KINDS, KUBEVIRT, SECRET};
use kubevirt_observe::secret::{Pair, pair};
use kubevirt_observe::x509::facts;
use kubevirt_rollout::{Precondition, Step};
use kubevirt_types::{ObjectKey, labels};
use serde_json::Value;
use tokio::time::timeout;

use crate::certificates::{self, CertificateError, Leaf, Validity};
use crate::{metrics, strategy};
use request::{RequestError, Sent};

/// No single request may hold up the plan longer; a webhook that is asked may take 10 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Why a step wasn't carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The world isn't any more what the plan was made for.
    #[error("{step}: {message}")]
    Stale {
        #[allow(missing_docs)]
        step: String,
        /// What the API server said.
        message: String,
    },
    /// The API server refused it.
    #[error("{step}: {}", crate::said(error))]
    Refused {
        #[allow(missing_docs)]
        step: String,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("{step}: no answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout {
        #[allow(missing_docs)]
        step: String,
    },
    /// The API server took it and keeps the object different.
    #[error("{step}: the API server keeps {pointer} different from the manifest")]
    Ineffective {
        #[allow(missing_docs)]
        step: String,
        /// Where.
        pointer: String,
    },
    /// The step can't be sent.
    #[error("{step}")]
    Request {
        #[allow(missing_docs)]
        step: String,
        #[allow(missing_docs)]
        source: RequestError,
    },
    /// The certificate can't be made.
    #[error("{step}")]
    Certificate {
        #[allow(missing_docs)]
        step: String,
        #[allow(missing_docs)]
        source: CertificateError,
    },
}

impl ApplyError {
    /// Whether looking again and planning again is all that it takes.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Stale { .. } => true,
            Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Ineffective { .. }
            | Self::Request { .. }
            | Self::Certificate { .. } => false,
        }
    }
}

/// One object as a write left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Which object.
    pub key: ObjectKey,
    /// Its resourceVersion then; none when it was deleted.
    pub resource_version: Option<String>,
}

/// What came of the steps.
#[derive(Debug, Default)]
pub struct Applied {
    /// Objects that were written and changed by that.
    pub written: Vec<Written>,
    /// Objects that should have been absent and aren't: nobody labelled them as ours.
    pub found: BTreeSet<ObjectKey>,
    /// Why not all steps were carried out.
    pub stopped: Option<ApplyError>,
}

/// A plan that is older isn't carried out: a process that was paused may have lost its lease. The lease's renew deadline.
const PLAN_LIMIT: Duration = Duration::from_secs(10);

/// Writes what steps say.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    namespace: String,
    backdating: SignedDuration,
}

impl Executor {
    /// An executor that keeps certificates in a namespace, valid from so long before their issue.
    pub fn new(client: Client, namespace: &str, backdating: SignedDuration) -> Self {
        Self { client, namespace: namespace.to_owned(), backdating }
    }

    /// Carries out the steps in their order, up to the first that fails. They come from what was seen at `seen`: the lease
    /// that was held then, and not the preconditions alone, keeps a creation or a deletion from coming too late (I12).
    pub async fn apply(&self, steps: &[Step], seen: Instant) -> Applied {
        let mut applied = Applied::default();
        for step in steps {
            if seen.elapsed() > PLAN_LIMIT {
                let message = format!("it was planned more than {} s ago", PLAN_LIMIT.as_secs());
                applied.stopped = Some(ApplyError::Stale { step: step.to_string(), message });
                break;
            }
            let (kind, verb) = names(step);
            tracing::info!(step = %step, "applying");
            match self.carry_out(step).await {
                Ok(written) => {
                    metrics::step(&kind, verb, "done");
                    applied.written.extend(written);
                }
                Err(error) => {
                    metrics::step(&kind, verb, if error.is_stale() { "stale" } else { "failed" });
                    if error.is_stale()
                        && let Some((key, Precondition::Absent)) = expected(step)
                    {
                        applied.found.insert(key);
                    }
                    applied.stopped = Some(error);
                    break;
                }
            }
        }
        applied
    }

    async fn carry_out(&self, step: &Step) -> Result<Vec<Written>, ApplyError> {
        let unsendable = |source| ApplyError::Request { step: step.to_string(), source };
        match step {
            Step::Apply { manifest, precondition } => {
                self.apply_manifest(step, &manifest.body, precondition).await
            }
            Step::CreateStrategyJob { manifest } => {
                let request =
                    request::apply(manifest.body.clone(), &Precondition::Absent).map_err(unsendable)?;
                self.write(step, request, &Precondition::Absent).await
            }
            Step::StoreStrategy { set } => {
                let request = request::overwrite(strategy::config_map(set)).map_err(unsendable)?;
                self.write(step, request, &Precondition::Absent).await
            }
            Step::Delete { key, uid, resource_version } => {
                let request = request::delete(key, uid, resource_version).map_err(unsendable)?;
                self.delete(step, key, request).await
            }
            Step::DeleteInstances { plural, version, .. } => {
                self.delete_instances(step, plural, version).await
            }
            Step::IssueCa { secret, common_name, duration, precondition } => {
                let pair = certificates::issue_ca(common_name, self.valid(*duration))
                    .map_err(|source| ApplyError::Certificate { step: step.to_string(), source })?;
                let body = secret::secret(secret, &pair, *duration);
                let request = request::apply(body, precondition).map_err(unsendable)?;
                self.write(step, request, precondition).await
            }
            Step::IssueLeaf {
                secret,
                common_name,
                dns_names,
                usage,
                duration,
                ca_fingerprint,
                precondition,
            } => {
                let ca = self.ca(step, ca_fingerprint).await?;
                let leaf =
                    Leaf { common_name: common_name.clone(), dns_names: dns_names.clone(), usage: *usage };
                let pair = certificates::issue_leaf(&ca, &leaf, self.valid(*duration))
                    .map_err(|source| ApplyError::Certificate { step: step.to_string(), source })?;
                let body = secret::secret(secret, &pair, *duration);
                let request = request::apply(body, precondition).map_err(unsendable)?;
                self.write(step, request, precondition).await
            }
            Step::MigrateStorage { crd, plural, version, uid, resource_version, .. } => {
                self.rewrite(step, plural, version).await?;
                let request =
                    request::set_stored_version(crd, uid, resource_version, version).map_err(unsendable)?;
                let before =
                    Precondition::Unchanged { uid: uid.clone(), resource_version: resource_version.clone() };
                self.write(step, request, &before).await
            }
            Step::AddFinalizer { finalizer, uid, resource_version } => {
                let kubevirt = self.kubevirt(step, uid).await?;
                let mut finalizers = finalizers(&kubevirt);
                finalizers.push(finalizer.clone());
                self.set_finalizers(step, &kubevirt, uid, resource_version, &finalizers).await
            }
            Step::RemoveFinalizer { finalizer, uid, .. } => {
                let kubevirt = self.kubevirt(step, uid).await?;
                let mut finalizers = finalizers(&kubevirt);
                finalizers.retain(|other| other != finalizer);
                let now = text(&kubevirt, "/metadata/resourceVersion").unwrap_or_default();
                self.set_finalizers(step, &kubevirt, uid, &now, &finalizers).await
            }
            Step::CleanNode { node, uid, resource_version, labels, annotations } => {
                let request = request::clean_node(node, uid, resource_version, labels, annotations)
                    .map_err(unsendable)?;
                let before =
                    Precondition::Unchanged { uid: uid.clone(), resource_version: resource_version.clone() };
                self.write(step, request, &before).await
            }
        }
    }

    /// Brings an object to what its manifest says, whoever else has written to it.
    async fn apply_manifest(
        &self,
        step: &Step,
        manifest: &Value,
        precondition: &Precondition,
    ) -> Result<Vec<Written>, ApplyError> {
        let unsendable = |source| ApplyError::Request { step: step.to_string(), source };
        let request = request::apply(manifest.clone(), precondition).map_err(unsendable)?;
        let mut stored = self.send(step, request).await?;
        if let Some(request) = request::restore(manifest, &stored).map_err(unsendable)? {
            stored = self.send(step, request).await?;
            if let Some(pointer) = request::difference(manifest, &stored) {
                return Err(ApplyError::Ineffective { step: step.to_string(), pointer });
            }
        }
        Ok(written(&stored, precondition))
    }

    /// From a little before now on for so long.
    fn valid(&self, duration: SignedDuration) -> Validity {
        let now = Timestamp::now();
        Validity {
            not_before: now.saturating_sub(self.backdating).unwrap_or(now),
            not_after: now.saturating_add(duration).unwrap_or(now),
        }
    }

    /// Sends a write; what it changed is what it returns.
    async fn write(
        &self,
        step: &Step,
        request: Sent,
        before: &Precondition,
    ) -> Result<Vec<Written>, ApplyError> {
        Ok(written(&self.send(step, request).await?, before))
    }

    /// Sends a deletion; an object that is gone already is as good.
    async fn delete(&self, step: &Step, key: &ObjectKey, request: Sent) -> Result<Vec<Written>, ApplyError> {
        match self.send(step, request).await {
            Ok(_) => {}
            Err(ApplyError::Refused { error, .. }) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(vec![Written { key: key.clone(), resource_version: None }])
    }

    /// Deletes every object of one of our kinds, namespace by namespace: the API server has no other way.
    async fn delete_instances(
        &self,
        step: &Step,
        plural: &str,
        version: &str,
    ) -> Result<Vec<Written>, ApplyError> {
        let group = kubevirt_types::GROUP;
        let url = format!("/apis/{group}/{version}/{plural}");
        let listed = self.send(step, request::list_metadata(&url)).await?;
        let items = listed["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let namespaces: BTreeSet<String> =
            items.iter().filter_map(|item| text(item, "/metadata/namespace")).collect();
        for namespace in namespaces {
            let url = format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}");
            let request = http::Request::delete(url)
                .body(Vec::new())
                .expect("names of namespaces and kinds make a URL");
            self.send(step, request).await?;
        }
        Ok(Vec::new())
    }

    /// The CA with its key, if it still is the one that the plan was made for.
    async fn ca(&self, step: &Step, fingerprint: &str) -> Result<Pair, ApplyError> {
        let key = ObjectKey::namespaced("v1", SECRET, &self.namespace, labels::SECRET_CA);
        let request =
            request::get(&key).map_err(|source| ApplyError::Request { step: step.to_string(), source })?;
        let stored = self.send(step, request).await?;
        pair(&stored)
            .filter(|pair| facts(&pair.certificate).is_ok_and(|ca| ca.fingerprint == fingerprint))
            .ok_or_else(|| ApplyError::Stale {
                step: step.to_string(),
                message: "the CA is another one".into(),
            })
    }

    /// The KubeVirt object with a uid, as it is now.
    async fn kubevirt(&self, step: &Step, uid: &str) -> Result<Value, ApplyError> {
        let row = KINDS.iter().find(|row| row.kind == KUBEVIRT).expect("KubeVirts are in the table");
        let listed = self.send(step, request::list_metadata(&row.url(Some(&self.namespace)))).await?;
        let items = listed["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .find(|item| text(item, "/metadata/uid").as_deref() == Some(uid))
            .cloned()
            .ok_or_else(|| ApplyError::Stale { step: step.to_string(), message: "the object is gone".into() })
    }

    async fn set_finalizers(
        &self,
        step: &Step,
        kubevirt: &Value,
        uid: &str,
        resource_version: &str,
        finalizers: &[String],
    ) -> Result<Vec<Written>, ApplyError> {
        let name = text(kubevirt, "/metadata/name").unwrap_or_default();
        let key = ObjectKey::namespaced(kubevirt_types::API_VERSION, KUBEVIRT, &self.namespace, &name);
        let request = request::set_finalizers(&key, uid, resource_version, finalizers)
            .map_err(|source| ApplyError::Request { step: step.to_string(), source })?;
        let before =
            Precondition::Unchanged { uid: uid.to_owned(), resource_version: resource_version.to_owned() };
        self.write(step, request, &before).await
    }

    async fn send(&self, step: &Step, request: Sent) -> Result<Value, ApplyError> {
        match timeout(REQUEST_LIMIT, self.client.request::<Value>(request)).await {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                Err(ApplyError::Stale { step: step.to_string(), message: status.message })
            }
            Ok(Err(error)) => Err(ApplyError::Refused { step: step.to_string(), error: Box::new(error) }),
            Err(_) => Err(ApplyError::Timeout { step: step.to_string() }),
        }
    }
}

/// What a write has changed: nothing where the object is of the version that it was of before.
fn written(stored: &Value, before: &Precondition) -> Vec<Written> {
    let resource_version = text(stored, "/metadata/resourceVersion");
    let same = match before {
        Precondition::Absent => false,
        Precondition::Unchanged { resource_version: was, .. } => resource_version.as_ref() == Some(was),
    };
    ObjectKey::of(stored).filter(|_| !same).map(|key| Written { key, resource_version }).into_iter().collect()
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn finalizers(object: &Value) -> Vec<String> {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The object that a step expects, and how.
fn expected(step: &Step) -> Option<(ObjectKey, &Precondition)> {
    match step {
        Step::Apply { manifest, precondition } => Some((manifest.key.clone(), precondition)),
        Step::IssueCa { secret, precondition, .. } | Step::IssueLeaf { secret, precondition, .. } => {
            Some((secret.clone(), precondition))
        }
        Step::CreateStrategyJob { manifest } => Some((manifest.key.clone(), &Precondition::Absent)),
        Step::StoreStrategy { .. }
        | Step::Delete { .. }
        | Step::DeleteInstances { .. }
        | Step::AddFinalizer { .. }
        | Step::RemoveFinalizer { .. }
        | Step::MigrateStorage { .. }
        | Step::CleanNode { .. } => None,
    }
}

/// The kind and the verb of a step, for the metric.
fn names(step: &Step) -> (String, &'static str) {
    match step {
        Step::Apply { manifest, precondition: Precondition::Absent } => (manifest.key.kind.clone(), "create"),
        Step::Apply { manifest, .. } => (manifest.key.kind.clone(), "apply"),
        Step::CreateStrategyJob { manifest } => (manifest.key.kind.clone(), "create"),
        Step::StoreStrategy { .. } => ("ConfigMap".into(), "create"),
        Step::Delete { key, .. } => (key.kind.clone(), "delete"),
        Step::DeleteInstances { kind, .. } => (kind.clone(), "deletecollection"),
        Step::IssueCa { secret, .. } | Step::IssueLeaf { secret, .. } => (secret.kind.clone(), "issue"),
        Step::AddFinalizer { .. } | Step::RemoveFinalizer { .. } => (KUBEVIRT.into(), "finalize"),
        Step::MigrateStorage { kind, .. } => (kind.clone(), "rewrite"),
        Step::CleanNode { .. } => ("Node".into(), "patch"),
    }
}
