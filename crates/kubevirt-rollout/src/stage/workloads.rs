//! The components' pods. A stage is over when every wanted pod is the target's and serves.

use crate::canary::{self, Canary};
use crate::context::{Context, Outcome, with_template_hash};
use crate::order::Component;
use crate::waiting::WaitingOn;

/// virt-handler: on one node first, then everywhere.
pub(crate) fn handlers(context: &Context<'_>) -> Outcome {
    let progress = context.progress(Component::Handler);
    let mut outcome = Outcome::default();
    let Some(manifest) = context.target.get(&Component::Handler.key(context.view.namespace())) else {
        return outcome;
    };
    let mut manifest = with_template_hash(manifest);
    Canary::strategy(context, progress).write(&mut manifest.body, context);
    context.view.ensure(&manifest.rehashed(), &mut outcome);
    if !progress.rolled() {
        let canary = match canary::observe(context) {
            Canary::Canary { node } => node,
            Canary::NotStarted | Canary::Spreading { .. } | Canary::Done | Canary::Failed { .. } => None,
        };
        outcome.waiting_on.push(match progress.waiting() {
            WaitingOn::HandlersNotReady { ready, of, cause, .. } => {
                WaitingOn::HandlersNotReady { ready, of, canary, cause }
            }
            other => other,
        });
    }
    outcome
}

/// virt-controller or virt-api.
pub(crate) fn deployment(context: &Context<'_>, component: Component) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(manifest) = context.target.get(&component.key(context.view.namespace())) else {
        return outcome;
    };
    context.view.ensure(&with_template_hash(manifest), &mut outcome);
    let progress = context.progress(component);
    if !progress.rolled() {
        outcome.waiting_on.push(progress.waiting());
    }
    outcome
}

/// Everything at once, where nothing runs yet.
pub(crate) fn together(context: &Context<'_>) -> Outcome {
    let parts =
        [handlers(context), deployment(context, Component::Controller), deployment(context, Component::Api)];
    let mut outcome = Outcome::default();
    for part in parts {
        outcome.steps.extend(part.steps);
        outcome.waiting_on.extend(part.waiting_on);
    }
    outcome
}
