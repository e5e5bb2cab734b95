//! Carries a decision's actions out, each on its precondition, and none after the leader's term. Decides nothing:
//! the first write that fails ends the round, and what happened is told in events and in the status.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use kubevirt_runtime::lease::{Term, TermOver};
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, labels};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::decision::{Action, News};
use crate::{metrics, owner};

/// The field manager of all our writes.
const MANAGER: &str = "virt-controller";

/// An object that decisions are about.
pub trait Subject:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The status patch that tells of a write that failed.
    fn on_failure(&self, reason: &str, message: &str, now: Timestamp) -> Option<Value>;
}

/// A write that didn't happen.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Somebody wrote first: decide again.
    #[error("{object} has changed since it was read")]
    Changed {
        /// The object.
        object: String,
    },
    /// An object of this name is there and isn't ours.
    #[error("{object} already exists and has another controller")]
    Taken {
        /// The object.
        object: String,
    },
    /// Another may lead now: it wasn't sent.
    #[error("{object} is left to whoever leads now")]
    NotLeading {
        /// The object that the decision was about.
        object: String,
        #[allow(missing_docs)]
        source: TermOver,
    },
    /// The write failed.
    #[error("can't {verb} {object}")]
    Write {
        /// What was attempted.
        verb: &'static str,
        /// Of which object.
        object: String,
        #[allow(missing_docs)]
        source: Box<kube::Error>,
    },
}

/// What writes go through, for one term of leadership.
#[derive(Clone)]
pub struct Writer {
    /// The cluster.
    pub client: Client,
    /// Where events go.
    pub recorder: Recorder,
    /// Until when we lead. Workers are tasks of their own: after a freeze they may run before the elector has noticed.
    pub term: Term,
}

impl Writer {
    /// Carries out what was decided about `subject`.
    pub async fn carry_out<S: Subject>(&self, subject: Arc<S>, actions: Vec<Action>) -> Result<(), ActError> {
        let mut subject = subject;
        for action in actions {
            let done = match &action {
                Action::PatchStatus(patch) => {
                    self.patch_subject(&*subject, patch, true).await.map(|new| subject = Arc::new(new))
                }
                Action::Patch(patch) => {
                    self.patch_subject(&*subject, patch, false).await.map(|new| subject = Arc::new(new))
                }
                Action::CreateVmi(vmi) => self.create(&*subject, &**vmi, "VirtualMachineInstance").await,
                Action::CreatePod(pod) => self.create(&*subject, &**pod, "Pod").await,
                Action::DeleteVmi { name, uid } => {
                    self.delete::<S, VirtualMachineInstance>(&*subject, name, uid).await
                }
                Action::DeletePod { name, uid } => self.delete::<S, Pod>(&*subject, name, uid).await,
                Action::PatchVmi { name, patch } => self.patch_vmi(&*subject, name, patch).await,
                Action::PatchVmiStatus { name, patch } => self.patch_vmi_status(&*subject, name, patch).await,
                Action::CreateMigration(migration) => {
                    self.create(&*subject, &**migration, "VirtualMachineInstanceMigration").await
                }
                Action::DeleteMigration { name, uid } => {
                    self.delete::<S, VirtualMachineInstanceMigration>(&*subject, name, uid).await
                }
                Action::Tell(news) => {
                    self.tell_news(news).await;
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.tell_failure(&*subject, &action, &error).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What a write is sent through, right after. None is sent after the term: there is no other way to the cluster in
    /// here but for events.
    fn api<S: Subject, K>(&self, subject: &S) -> Result<Api<K>, ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let over = |source| ActError::NotLeading { object: described(subject), source };
        self.term.check().map_err(over)?;
        Ok(Api::namespaced(self.client.clone(), subject.meta().namespace.as_deref().unwrap_or_default()))
    }

    async fn patch_subject<S: Subject>(
        &self,
        subject: &S,
        patch: &Value,
        status: bool,
    ) -> Result<S, ActError> {
        let api: Api<S> = self.api(subject)?;
        let name = subject.meta().name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(owner::guarded(patch.clone(), subject.meta()));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let written = match status {
            true => api.patch_status(name, &params, &patch).await,
            false => api.patch(name, &params, &patch).await,
        };
        written.map_err(|error| {
            failed(if status { "patch the status of" } else { "patch" }, described(subject), error)
        })
    }

    async fn patch_vmi<S: Subject>(&self, subject: &S, name: &str, patch: &Value) -> Result<(), ActError> {
        let api: Api<VirtualMachineInstance> = self.api(subject)?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(failed("patch", object_name::<VirtualMachineInstance>(name), error)),
        }
    }

    /// An instance that is gone is told as one that has changed: the decision was about it.
    async fn patch_vmi_status<S: Subject>(
        &self,
        subject: &S,
        name: &str,
        patch: &Value,
    ) -> Result<(), ActError> {
        let api: Api<VirtualMachineInstance> = self.api(subject)?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let written = api.patch_status(name, &params, &Patch::Merge(patch)).await;
        let object = || object_name::<VirtualMachineInstance>(name);
        written.map(|_| ()).map_err(|error| failed("patch the status of", object(), error))
    }

    /// Creates `child`. Another leader may have been faster; that is as good.
    async fn create<S: Subject, K>(&self, subject: &S, child: &K, kind: &str) -> Result<(), ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = self.api(subject)?;
        let name = child.meta().name.as_deref().unwrap_or_default();
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&params, child).await {
            Ok(_) => {
                let note = created(kind, child.meta());
                self.tell(subject, EventType::Normal, "SuccessfulCreate", note).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let present =
                    api.get_opt(name).await.map_err(|e| failed("read", object_name::<K>(name), e))?;
                match present {
                    Some(present) if same_controller(present.meta(), child.meta()) => Ok(()),
                    Some(_) => Err(ActError::Taken { object: object_name::<K>(name) }),
                    None => Err(ActError::Changed { object: object_name::<K>(name) }),
                }
            }
            Err(error) => Err(failed("create", object_name::<K>(name), error)),
        }
    }

    async fn delete<S: Subject, K>(&self, subject: &S, name: &str, uid: &str) -> Result<(), ActError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api(subject)?;
        let same = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        match api.delete(name, &DeleteParams::background().preconditions(same)).await {
            Ok(_) => {
                self.tell(subject, EventType::Normal, "SuccessfulDelete", deleted(&K::kind(&()), name)).await;
                Ok(())
            }
            // Gone, or another object of that name: the one that was meant is gone either way.
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(failed("delete", object_name::<K>(name), error)),
        }
    }

    /// Tells people of a write that the API server refused.
    async fn tell_failure<S: Subject>(&self, subject: &S, action: &Action, error: &ActError) {
        let reason = match action {
            Action::CreateVmi(_) | Action::CreatePod(_) | Action::CreateMigration(_) => "FailedCreate",
            Action::DeleteVmi { .. } | Action::DeletePod { .. } | Action::DeleteMigration { .. } => {
                "FailedDelete"
            }
            Action::PatchStatus(_)
            | Action::Patch(_)
            | Action::PatchVmi { .. }
            | Action::PatchVmiStatus { .. }
            | Action::Tell(_) => return,
        };
        let message = match error {
            ActError::Changed { .. } | ActError::NotLeading { .. } => return,
            ActError::Taken { .. } => error.to_string(),
            ActError::Write { source, .. } => match &**source {
                kube::Error::Api(status) => format!("{error}: {}", status.message),
                // The API server can't be reached: it can't be told either.
                _ => return,
            },
        };
        self.tell(subject, EventType::Warning, reason, message.clone()).await;
        let Some(patch) = subject.on_failure(reason, &message, crate::now()) else { return };
        if let Err(error) = self.patch_subject(subject, &patch, true).await {
            tracing::debug!(%error, "the failure isn't in the status");
        }
    }

    async fn tell<S: Subject>(&self, subject: &S, type_: EventType, reason: &str, note: String) {
        let reference: ObjectReference = subject.object_ref(&());
        self.publish(&reference, type_, reason, note).await;
    }

    async fn tell_news(&self, news: &News) {
        metrics::told(news);
        let type_ = if news.warning { EventType::Warning } else { EventType::Normal };
        self.publish(&news.about, type_, news.reason, news.note.clone()).await;
    }

    async fn publish(&self, about: &ObjectReference, type_: EventType, reason: &str, note: String) {
        let action = match type_ {
            EventType::Normal => "Synchronizing",
            EventType::Warning => "Retrying",
        };
        let note: String = note.chars().take(1_000).collect();
        tracing::info!(object = named(about), reason, "{note}");
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.term.check() {
            tracing::debug!(%error, "an event isn't sent");
            return;
        }
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!(%error, "an event is lost");
        }
    }
}

fn created(kind: &str, child: &ObjectMeta) -> String {
    let name = child.name.as_deref().unwrap_or_default();
    let moves = child.labels.as_ref().is_some_and(|all| all.contains_key(labels::MIGRATION_UID));
    match kind {
        "Pod" if moves => format!("Created migration target pod {name}"),
        "Pod" => format!("Created virtual machine pod {name}"),
        "VirtualMachineInstanceMigration" => format!("Created migration {name}"),
        _ => format!("Started the virtual machine by creating the new virtual machine instance {name}"),
    }
}

fn deleted(kind: &str, name: &str) -> String {
    match kind {
        "Pod" => format!("Deleted virtual machine pod {name}"),
        "VirtualMachineInstanceMigration" => format!("Deleted migration {name}, which is long over"),
        _ => format!("Stopped the virtual machine by deleting the virtual machine instance {name}"),
    }
}

fn same_controller(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    owner::controller_of(other).is_some_and(|owner| owner::controls(&owner.uid, one))
}

fn failed(verb: &'static str, object: String, error: kube::Error) -> ActError {
    match error {
        kube::Error::Api(status) if is_stale(&status) => ActError::Changed { object },
        error => ActError::Write { verb, object, source: Box::new(error) },
    }
}

/// A precondition that doesn't hold any more, or an object that is gone.
fn is_stale(status: &Status) -> bool {
    status.is_conflict() || status.is_not_found()
}

fn object_name<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

fn described<S: Subject>(subject: &S) -> String {
    named(&subject.object_ref(&()))
}

fn named(object: &ObjectReference) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{} {}/{}", text(&object.kind), text(&object.namespace), text(&object.name))
}

#[cfg(test)]
mod tests;
