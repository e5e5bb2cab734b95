//! One VMI, once: look, decide, write, ask, tell.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource};
use kubevirt_types::VirtualMachineInstance;
use kubevirt_types::migration::MigrationProgress;
use kubevirt_types::vmi::VirtualMachineInstanceStatus;

use super::Control;
use crate::launcher::calls::{self, CallError};
use crate::vmi::decide::{ASK_AGAIN, Call, Memory, Notice, PodFacts, View, decide};
use crate::vmi::migration;
use crate::vmi::status;

/// How long the API server has for one call.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon a VMI is looked at again whose status somebody else has written: the watch brings it sooner.
const CONFLICT: Duration = Duration::from_secs(1);
/// How soon a VMI is looked at again that came to nothing.
const RETRY: Duration = Duration::from_secs(2);

/// A VMI that came to nothing this time.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Its status can't be written.
    #[error("can't write the status of {namespace}/{name}")]
    Status {
        #[allow(missing_docs)]
        namespace: String,
        #[allow(missing_docs)]
        name: String,
        #[allow(missing_docs)]
        source: Box<kube::Error>,
    },
    /// The API server is silent.
    #[error("the API server did not answer about {namespace}/{name}")]
    Silent {
        #[allow(missing_docs)]
        namespace: String,
        #[allow(missing_docs)]
        name: String,
    },
    /// Its launcher doesn't do as it is told.
    #[error("{call:?} of {namespace}/{name}")]
    Call {
        #[allow(missing_docs)]
        namespace: String,
        #[allow(missing_docs)]
        name: String,
        #[allow(missing_docs)]
        call: Call,
        #[allow(missing_docs)]
        source: CallError,
    },
}

/// Looks at one VMI and does what is to be done.
pub async fn reconcile(
    vmi: Arc<VirtualMachineInstance>,
    control: Arc<Control>,
) -> Result<Action, ReconcileError> {
    let Some(pod) = control.pods.launcher(&vmi, &control.node) else { return Ok(Action::await_change()) };
    control.links.ensure(&pod);
    // Kubernetes' times have whole seconds.
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let memory = control.memory().get(vmi.uid()).cloned().unwrap_or_default();
    let knowledge = control.links.knowledge(&pod);
    let facts = control.pods.facts(&pod);
    let decision = decide(View {
        vmi: &vmi,
        node: &control.node,
        knowledge: &knowledge,
        pod: facts.as_ref(),
        memory: &memory,
        now,
    });
    tracing::debug!(namespace = vmi.namespace(), name = vmi.name(), ?knowledge, ?decision, "decided");
    // Written first: the decision holds for the object that was read, and a call changes nothing
    // that a second look would not see.
    let mut written = true;
    if let Some(wanted) = &decision.status {
        written = write(&control, &vmi, wanted).await?;
        if written {
            if progress(wanted) != vmi.status.as_ref().and_then(progress) {
                remember(&control, &vmi, |memory| memory.progress_written = Some(now));
            }
            for notice in &decision.notices {
                publish(&control, &vmi, notice).await;
            }
        }
    }
    if let Some(call) = &decision.call {
        let asked = Asked { pod: &pod, call, facts: facts.as_ref(), now };
        written &= ask(&control, &vmi, asked, memory).await?;
    }
    let again = if written { decision.again } else { Some(CONFLICT) };
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// How far its migration is, as a status says.
fn progress(status: &VirtualMachineInstanceStatus) -> Option<&MigrationProgress> {
    status.migration_state.as_ref()?.progress.as_ref()
}

/// When to look again after an error.
pub fn after_error(vmi: Arc<VirtualMachineInstance>, error: &ReconcileError, _: Arc<Control>) -> Action {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(namespace = vmi.namespace(), name = vmi.name(), %error, cause, "VMI");
    match error {
        ReconcileError::Call { .. } => Action::requeue(ASK_AGAIN),
        ReconcileError::Status { .. } | ReconcileError::Silent { .. } => Action::requeue(RETRY),
    }
}

/// Writes a status. False when somebody else was faster, or the VMI is gone.
async fn write(
    control: &Control,
    vmi: &VirtualMachineInstance,
    wanted: &VirtualMachineInstanceStatus,
) -> Result<bool, ReconcileError> {
    let Some(patch) = status::patch(vmi, wanted) else { return Ok(true) };
    let (namespace, name) = (vmi.namespace().to_owned(), vmi.name().to_owned());
    let api: Api<VirtualMachineInstance> = Api::namespaced(control.client.clone(), &namespace);
    let parameters = PatchParams::default();
    let patch = Patch::Merge(patch);
    match tokio::time::timeout(LIMIT, api.patch_status(&name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(kube::Error::Api(answer))) if answer.is_conflict() || answer.is_not_found() => Ok(false),
        Ok(Err(source)) => Err(ReconcileError::Status { namespace, name, source: Box::new(source) }),
        Err(_) => Err(ReconcileError::Silent { namespace, name }),
    }
}

/// What a launcher is asked.
struct Asked<'a> {
    pod: &'a str,
    call: &'a Call,
    facts: Option<&'a PodFacts>,
    now: Timestamp,
}

/// Asks, and writes what is answered. False when somebody else has written in between: it is asked again then.
async fn ask(
    control: &Control,
    vmi: &VirtualMachineInstance,
    asked: Asked<'_>,
    memory: Memory,
) -> Result<bool, ReconcileError> {
    let Asked { pod, call, facts, now } = asked;
    let allow_emulation = control.use_emulation.borrow().unwrap_or(false);
    let answer = match calls::carry_out(&control.links, pod, call, vmi, allow_emulation).await {
        Ok(answer) => answer,
        Err(source) => {
            if *call == Call::Sync {
                let message = source.to_string();
                publish(control, vmi, &Notice::warning("SyncFailed", &message)).await;
                write(control, vmi, &status::sync_failed(vmi, &message, now)).await?;
            }
            let (namespace, name) = (vmi.namespace().to_owned(), vmi.name().to_owned());
            return Err(ReconcileError::Call { namespace, name, call: call.clone(), source });
        }
    };
    match call {
        Call::Shutdown { .. } => remember(control, vmi, |memory| memory.shutdown_sent = Some(now)),
        Call::Kill => remember(control, vmi, |memory| memory.kill_sent = Some(now)),
        Call::Sync
        | Call::PrepareSource { .. }
        | Call::PrepareTarget { .. }
        | Call::Migrate { .. }
        | Call::Cancel { .. }
        | Call::Resolve { .. }
        | Call::Discard { .. } => {}
    }
    if let Some(notice) = told(call, &memory) {
        publish(control, vmi, &notice).await;
    }
    if let Some(next) = migration::then(call, &answer, &control.links.knowledge(pod)) {
        let asked = Asked { pod, call: &next, facts, now };
        return Box::pin(ask(control, vmi, asked, memory)).await;
    }
    let Some((wanted, notice)) = migration::answered(vmi, call, &answer, facts, now) else { return Ok(true) };
    let written = write(control, vmi, &wanted).await?;
    if written && let Some(notice) = notice {
        publish(control, vmi, &notice).await;
    }
    Ok(written)
}

/// What people are told of a call.
fn told(call: &Call, memory: &Memory) -> Option<Notice> {
    match call {
        Call::Sync => Some(Notice::normal("Created", "VirtualMachineInstance defined.")),
        // Said once, not each time the button is pressed.
        Call::Shutdown { .. } if memory.shutdown_sent.is_some() => None,
        Call::Shutdown { .. } => Some(Notice::normal("ShuttingDown", "Signaled Graceful Shutdown")),
        Call::Kill if memory.kill_sent.is_some() => None,
        Call::Kill => Some(Notice::normal("Deleted", "Signaled Deletion")),
        Call::Discard { why } => {
            let message = format!("The migration's target can't take the VirtualMachineInstance in: {why}");
            Some(Notice::warning("PreparingTarget", message))
        }
        Call::PrepareSource { .. }
        | Call::PrepareTarget { .. }
        | Call::Migrate { .. }
        | Call::Cancel { .. }
        | Call::Resolve { .. } => None,
    }
}

fn remember(control: &Control, vmi: &VirtualMachineInstance, change: impl FnOnce(&mut Memory)) {
    change(control.memory().entry(vmi.uid().to_owned()).or_default());
}

/// Tells people. An event that gets lost changes nothing.
async fn publish(control: &Control, vmi: &VirtualMachineInstance, notice: &Notice) {
    let event = Event {
        type_: if notice.warning { EventType::Warning } else { EventType::Normal },
        reason: notice.reason.to_owned(),
        note: Some(notice.message.chars().take(1000).collect()),
        action: notice.reason.to_owned(),
        secondary: None,
    };
    let regarding: ObjectReference = vmi.object_ref(&());
    match tokio::time::timeout(LIMIT, control.recorder.publish(&event, &regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, reason = notice.reason, "can't publish an event"),
        Err(_) => tracing::warn!(reason = notice.reason, "publishing an event took too long"),
    }
}
