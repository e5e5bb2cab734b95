//! A target that fails: it is found within bounds, remembered in the status, and followed by what the spec asks for.
//!
//! The status remembers because a failure can't be seen again once its pods are gone. All else follows from it: while it
//! names what the spec asks for, the deployment that was observed before is the target instead, or nothing moves.

use jiff::Timestamp;
use kubevirt_manifests::InstallConfig;
use kubevirt_types::KubeVirt;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure};
use kubevirt_types::labels::RETRY_UPDATE;

use crate::canary::Canary;
use crate::context::{Context, View};
use crate::order::Component;
use crate::waiting::{Cause, WaitingOn};

/// What is carried out instead of a target that has failed.
pub(crate) struct Effective {
    /// What is carried out.
    pub config: InstallConfig,
    /// The failure, if there is one.
    pub failed: Option<FailedUpdate>,
}

/// What is carried out for a spec that resolves to `wanted`.
pub(crate) fn effective(view: View<'_>, wanted: InstallConfig) -> Effective {
    let Some(failed) = remembered(view.kubevirt, &wanted) else {
        return Effective { config: wanted, failed: None };
    };
    let mut failed = failed.clone();
    if asked(view.kubevirt) == OnFailure::Rollback {
        failed.action = OnFailure::Rollback;
    }
    let previous = view.status().and_then(|status| status.observed_deployment_id.as_deref());
    let stored = previous.and_then(|id| view.observed.strategies.get(id));
    match (failed.action, stored) {
        (OnFailure::Rollback, Some(stored)) => {
            Effective { config: stored.set.config.clone(), failed: Some(failed) }
        }
        (OnFailure::Rollback, None) | (OnFailure::Pause, _) => {
            failed.action = OnFailure::Pause;
            Effective { config: wanted, failed: Some(failed) }
        }
    }
}

/// The failure of this target, unless somebody has asked for another try since.
fn remembered<'a>(kubevirt: &'a KubeVirt, wanted: &InstallConfig) -> Option<&'a FailedUpdate> {
    let failed = kubevirt.status.as_ref()?.failed_update.as_ref()?;
    (failed.deployment_id == wanted.id() && failed.retry == retry(kubevirt)).then_some(failed)
}

fn retry(kubevirt: &KubeVirt) -> Option<String> {
    kubevirt.metadata.annotations.as_ref()?.get(RETRY_UPDATE).cloned()
}

/// When somebody asked for another try: what went wrong before that doesn't count any more.
pub(crate) fn retried_at(kubevirt: &KubeVirt) -> Option<Timestamp> {
    retry(kubevirt)?.parse().ok()
}

fn asked(kubevirt: &KubeVirt) -> OnFailure {
    kubevirt.spec.update_strategy.as_ref().and_then(|strategy| strategy.on_failure).unwrap_or_default()
}

/// What a plan says about a failure, before all else.
pub(crate) fn said(view: View<'_>, failed: Option<&FailedUpdate>) -> Option<WaitingOn> {
    let previous = view.status().and_then(|status| status.observed_kube_virt_version.clone());
    Some(WaitingOn::UpdateFailed { failed: failed?.clone(), previous: previous.unwrap_or_default() })
}

/// The failure that shows in the pods now, where there is something to come back to.
pub(crate) fn found(context: &Context<'_>) -> Option<FailedUpdate> {
    let view = context.view;
    let target = &context.target.config;
    if !context.is_trial() || view.status()?.observed_deployment_id.is_none() {
        return None;
    }
    let (component, cause) = Component::ALL
        .into_iter()
        .find_map(|component| Some((component, of_component(context, component)?)))?;
    Some(FailedUpdate {
        deployment_id: target.id(),
        version: target.release.to_string(),
        component: component.name().to_owned(),
        node: cause.node,
        cause: cause.message,
        at: view.now,
        action: asked(view.kubevirt),
        retry: retry(view.kubevirt),
    })
}

fn of_component(context: &Context<'_>, component: Component) -> Option<Cause> {
    let progress = context.progress(component);
    match component {
        Component::Handler => match Canary::of(context, progress) {
            Canary::Failed { cause } => Some(cause),
            Canary::NotStarted
            | Canary::Trying { .. }
            | Canary::Doubted { .. }
            | Canary::Spreading { .. }
            | Canary::Done => None,
        },
        Component::Controller | Component::Api => progress.failed(context.view).next().cloned(),
    }
}
