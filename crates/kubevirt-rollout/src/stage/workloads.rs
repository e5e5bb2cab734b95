//! The components' pods. A stage is over when every wanted pod is the target's and serves.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use kubevirt_types::labels;
use serde_json::json;

use crate::canary::{Canary, Strategy};
use crate::context::{Context, Outcome, View, with_template_hash};
use crate::observed::Node;
use crate::order::Component;
use crate::progress::Progress;
use crate::waiting::WaitingOn;

/// The API server keeps times in whole seconds.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);

/// Kubernetes' own progressDeadlineSeconds. The API server takes no Deployment whose minReadySeconds are more.
const PROGRESS_DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// virt-handler: on one node first, then everywhere.
pub(crate) fn handlers(context: &Context<'_>) -> Outcome {
    let (view, progress) = (context.view, context.progress(Component::Handler));
    let mut outcome = Outcome::default();
    let Some(manifest) = context.target.get(&Component::Handler.key(view.namespace())) else {
        return outcome;
    };
    if let Some(waiting) = settling(context, progress) {
        return waiting.into();
    }
    let canary = Canary::of(context, progress);
    let frozen = context.paused.is_some_and(|failed| failed.component == Component::Handler.name());
    let strategy = if frozen { Strategy::Frozen } else { canary.strategy(progress) };
    let mut manifest = with_template_hash(manifest);
    strategy.write(&mut manifest.body, context);
    if let Some(unable) = unable_nodes(view, progress) {
        manifest.body["metadata"]["annotations"][labels::UNABLE_NODES] = json!(unable);
    }
    view.ensure(&manifest.rehashed(), &mut outcome);
    if canary != Canary::Done || frozen {
        let node = match canary {
            Canary::Trying { node, .. } => node,
            Canary::Doubted { cause } => cause.node,
            Canary::NotStarted | Canary::Spreading { .. } | Canary::Done | Canary::Failed { .. } => None,
        };
        outcome.waiting_on.push(progress.waiting(node));
        outcome.waiting_on.extend(WaitingOn::nodes(&progress.away));
    }
    outcome
}

/// What the DaemonSet's controller would take for unavailable, once pods have to be Ready for longer: it would replace
/// all of them at once. Those that restart have nothing to lose.
fn settling(context: &Context<'_>, progress: &Progress<'_>) -> Option<WaitingOn> {
    let view = context.view;
    if progress.object_current || progress.object_absent {
        return None;
    }
    let has_target: BTreeSet<&str> = progress.ready.iter().filter_map(|pod| pod.node.as_deref()).collect();
    progress
        .outdated
        .iter()
        .filter(|pod| pod.restarts == 0)
        .filter_map(|pod| {
            let node = pod.node.as_deref().filter(|node| !has_target.contains(node))?;
            let until = pod.ready_since?.saturating_add(view.soak() + ROUNDING).ok()?;
            (view.now < until).then_some((until, node))
        })
        .max()
        .map(|(until, node)| WaitingOn::HandlersSettling { node: node.to_owned(), until })
}

/// The nodes that can't run VMs before the DaemonSet is changed: what was so before is no fault of the new version.
fn unable_nodes(view: View<'_>, progress: &Progress<'_>) -> Option<String> {
    if progress.object_absent {
        return None;
    }
    if progress.object_current {
        let names: Vec<&str> = view.unable_before().iter().copied().collect();
        return Some(names.join(",")).filter(|list| !list.is_empty());
    }
    let unable = |node: &&Node| node.schedulable_label.as_deref() != Some("true");
    let names: Vec<&str> = view.observed.nodes.iter().filter(unable).map(Node::name).collect();
    Some(names.join(",")).filter(|list| !list.is_empty())
}

/// virt-controller or virt-api.
pub(crate) fn deployment(context: &Context<'_>, component: Component) -> Outcome {
    let (view, progress) = (context.view, context.progress(component));
    let mut outcome = Outcome::default();
    let Some(manifest) = context.target.get(&component.key(view.namespace())) else {
        return outcome;
    };
    let frozen = context.paused.is_some_and(|failed| failed.component == component.name());
    let mut manifest = with_template_hash(manifest);
    manifest.body["spec"]["minReadySeconds"] = json!(view.soak().as_secs());
    manifest.body["spec"]["progressDeadlineSeconds"] = json!((view.soak() + PROGRESS_DEADLINE).as_secs());
    manifest.body["spec"]["paused"] = json!(frozen);
    view.ensure(&manifest.rehashed(), &mut outcome);
    if !progress.rolled(view) || frozen {
        outcome.waiting_on.push(progress.waiting(None));
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
        outcome.notes.extend(part.notes);
    }
    outcome
}
