//! The canary: a new virt-handler is tried on one node before it goes everywhere (I6).
//!
//! It stands by beside the old one first. Then the DaemonSet's controller deletes the old one, and the new one is in charge
//! of its node. Only when it has been so for a while, without a crash and with its node schedulable, the others follow.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;
use crate::observed::Pod;
use crate::order::Component;
use crate::progress::Progress;
use crate::trouble::taken_over;
use crate::waiting::Cause;

/// How far the new virt-handler is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canary {
    /// The DaemonSet doesn't make the target's pods yet.
    NotStarted,
    /// It is tried on one node.
    Trying {
        /// Which; none while the DaemonSet has not made the pod yet.
        node: Option<String>,
        /// When it will have proved itself, if nothing happens; none before it is in charge.
        until: Option<Timestamp>,
    },
    /// In charge of its node, and not what it should be there: nobody follows until that is decided.
    Doubted {
        /// Where and why, and when it is decided.
        cause: Cause,
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
    /// It is no good.
    Failed {
        /// Where and why.
        cause: Cause,
    },
}

impl Canary {
    /// The state of the rollout.
    pub(crate) fn of(context: &Context<'_>, progress: &Progress<'_>) -> Self {
        let view = context.view;
        if !progress.object_current {
            return Self::NotStarted;
        }
        let shared = progress.shared_nodes();
        let wrong: BTreeSet<&str> = progress.causes.iter().map(|cause| cause.pod.as_str()).collect();
        let alone = |pod: &&&Pod| pod.node.as_deref().is_some_and(|node| !shared.contains(node));
        let proved = progress
            .ready
            .iter()
            .filter(alone)
            .filter(|pod| !wrong.contains(pod.name.as_str()))
            .any(|pod| proved_at(context, pod).is_some_and(|at| at <= view.now));
        let tolerated = if proved { progress.wanted * view.policy.tolerated_percent / 100 } else { 0 };
        let mut failed = progress.failed(view);
        if let (Some(cause), true) = (failed.next(), failed.count() + 1 > tolerated) {
            return Self::Failed { cause: cause.clone() };
        }
        let mut doubted = progress
            .causes
            .iter()
            .filter(|cause| cause.node.as_deref().is_some_and(|node| !shared.contains(node)));
        if let (Some(cause), false) = (doubted.next(), progress.outdated.is_empty())
            && doubted.count() + 1 > tolerated
        {
            return Self::Doubted { cause: cause.clone() };
        }
        let rolled = progress.rolled(view);
        let nobody = progress.wanted == 0 && progress.unreachable == 0;
        if rolled && (proved || nobody || !context.is_trial()) {
            return Self::Done;
        }
        if !rolled && (progress.outdated.is_empty() || proved) {
            return Self::Spreading { ready: progress.ready.len(), of: progress.wanted };
        }
        let first =
            progress.ready.iter().find(alone).or(progress.ready.first()).or(progress.starting.first());
        let until = first.filter(alone).and_then(|pod| proved_at(context, pod));
        Self::Trying { node: first.and_then(|pod| pod.node.clone()), until }
    }

    /// How fast the DaemonSet may go. Only a canary that has proved itself lets it go faster than one node at a
    /// time, and only while there is something to replace. While one is in doubt nobody follows it: the next one stands
    /// by already, for a soak that may be shorter than the time it takes to decide.
    pub(crate) fn strategy(&self, progress: &Progress<'_>) -> Strategy {
        match self {
            Self::Doubted { .. } | Self::Failed { .. } => Strategy::Frozen,
            Self::Spreading { .. } if !progress.outdated.is_empty() => Strategy::Spread,
            Self::NotStarted | Self::Trying { .. } | Self::Spreading { .. } | Self::Done => Strategy::One,
        }
    }
}

/// When a pod that is alone on its node, and with which nothing is wrong, will have proved itself.
fn proved_at(context: &Context<'_>, pod: &Pod) -> Option<Timestamp> {
    taken_over(pod, context.view)?.saturating_add(context.view.soak()).ok()
}

/// How fast the DaemonSet may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// One node, and the next only when its pod has been Ready for a while.
    One,
    /// A part of the nodes at a time.
    Spread,
    /// Nothing more is replaced.
    Frozen,
}

impl Strategy {
    /// Writes it into the DaemonSet. Nothing is ever unavailable: a successor is there first. A node that is NotReady
    /// takes nobody's place: as its old pod isn't Ready, Kubernetes deletes it once there is a new one, and a node
    /// whose old pod is being deleted doesn't count as a surge.
    pub fn write(self, body: &mut Value, context: &Context<'_>) {
        let (view, progress) = (context.view, context.progress(Component::Handler));
        let rolling = |surge: usize| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": surge}});
        let soak = view.soak().as_secs();
        let (seconds, strategy) = match self {
            Self::One => (soak, rolling(1)),
            Self::Spread => (0, rolling(view.policy.spread(progress.wanted))),
            Self::Frozen => (soak, json!({"type": "OnDelete"})),
        };
        body["spec"]["minReadySeconds"] = json!(seconds);
        body["spec"]["updateStrategy"] = strategy;
    }
}
