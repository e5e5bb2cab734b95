//! The canary: a new virt-handler is tried on one node before it goes everywhere (I6).

use serde_json::{Value, json};

use crate::context::Context;
use crate::order::Component;
use crate::progress::Progress;

/// How far the new virt-handler is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canary {
    /// The DaemonSet doesn't make the target's pods yet.
    NotStarted,
    /// It is tried on one node.
    Canary {
        /// Which; none while the DaemonSet has not made the pod yet.
        node: Option<String>,
    },
    /// It is good, and goes to the other nodes.
    Spreading {
        /// Nodes that have it.
        ready: usize,
        /// Nodes that want it.
        of: usize,
    },
    /// Every node has it.
    Done,
    /// It doesn't start.
    Failed {
        /// Where.
        node: Option<String>,
        /// Why.
        cause: String,
    },
}

impl Canary {
    /// The state of the rollout.
    pub(crate) fn of(context: &Context<'_>, progress: &Progress<'_>) -> Self {
        if !progress.object_current {
            return Self::NotStarted;
        }
        if progress.rolled() {
            return Self::Done;
        }
        if let Some(cause) = &progress.cause {
            return Self::Failed { node: cause.node.clone(), cause: cause.message.clone() };
        }
        if progress.outdated.is_empty() || healthy(context, progress) {
            return Self::Spreading { ready: progress.ready.len(), of: progress.wanted };
        }
        let node = progress.ready.iter().chain(&progress.starting).find_map(|pod| pod.node.clone());
        Self::Canary { node }
    }

    /// How fast the DaemonSet may go. Only a canary that has proved itself lets it go faster than one node at a
    /// time, and only while there is something to replace.
    pub(crate) fn strategy(context: &Context<'_>, progress: &Progress<'_>) -> Strategy {
        let spreads = progress.object_current
            && progress.cause.is_none()
            && !progress.outdated.is_empty()
            && healthy(context, progress);
        if spreads { Strategy::Spread } else { Strategy::One }
    }
}

/// Whether one new pod has been Ready for long enough.
fn healthy(context: &Context<'_>, progress: &Progress<'_>) -> bool {
    let view = context.view;
    progress.ready.iter().any(|pod| {
        pod.ready_since.is_some_and(|since| view.now.duration_since(since) >= view.policy.canary_ready)
    })
}

/// How fast the DaemonSet may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// One node, and the next only when its pod has been Ready for a while.
    One,
    /// A part of the nodes at a time.
    Spread,
}

impl Strategy {
    /// Writes it into the DaemonSet. Nothing is ever unavailable: a successor is there first.
    pub fn write(self, body: &mut Value, context: &Context<'_>) {
        let policy = context.view.policy;
        let (surge, seconds) = match self {
            Self::One => (json!(1), policy.canary_ready.as_secs()),
            Self::Spread => (json!(policy.spread), 0),
        };
        body["spec"]["minReadySeconds"] = json!(seconds);
        body["spec"]["updateStrategy"] = json!({
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": surge},
        });
    }
}

/// The state of virt-handler's rollout, for those who show it.
pub(crate) fn observe(context: &Context<'_>) -> Canary {
    Canary::of(context, context.progress(Component::Handler))
}
