//! What is known of the node that has an instance's guest. Pure.
//!
//! A node that is only silent proves nothing: its guest may run, and may be reached by its users. So nothing
//! ends here; it is only said that nobody knows.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kubevirt_types::gate;

/// A virt-handler writes its heartbeat each 60 to 72 seconds, and tries for ten more.
const SILENCE: Duration = Duration::from_secs(100);
/// The taint with which an administrator says that a node is off, and stays off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Facts about a node that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Since when Kubernetes calls it not ready; none while it is ready.
    pub not_ready_since: Option<Timestamp>,
    /// When the last heartbeat of its virt-handler came, by our clock.
    pub heartbeat: Option<Timestamp>,
    /// Whether somebody said that it is off.
    pub out_of_service: bool,
}

/// The node that an instance is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSeen {
    /// The instance has none yet.
    None,
    /// There is no node of this name any more.
    Gone(String),
    /// This one.
    Here(NodeFacts),
}

/// What follows for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// Its virt-handler speaks for the guest, or will soon be missed.
    Heard {
        /// When to look again, if only time has to pass.
        again: Option<Timestamp>,
    },
    /// Nobody knows what the guest does, and why that is.
    Unheard(String),
}

impl NodeSeen {
    /// Of a node's name, the node of this name if there is one, and when its heartbeat came.
    pub fn of(name: Option<&str>, node: Option<&Node>, heartbeat: Option<Timestamp>) -> Self {
        match (name.filter(|name| !name.is_empty()), node) {
            (None, _) => Self::None,
            (Some(name), None) => Self::Gone(name.to_owned()),
            (Some(name), Some(node)) => Self::Here(NodeFacts::of(name, node, heartbeat)),
        }
    }

    /// Whether the guest's virt-handler speaks for it.
    ///
    /// A kubelet that is silent makes a node not ready; the virt-handler beside it may go on, and then knows better.
    /// So does one whose word about the instance is newer than its heartbeat: it speaks before that when it returns.
    pub(super) fn health(&self, word: Option<Timestamp>, now: Timestamp) -> Health {
        match self {
            // The object of a node is gone at once, and its virt-handler may speak until its pods are removed as well.
            Self::None | Self::Gone(_) => Health::Heard { again: None },
            Self::Here(facts) => {
                let Some(since) = facts.not_ready_since else { return Health::Heard { again: None } };
                let last = facts.heartbeat.max(word);
                let due = last.map_or(since, |last| last + SILENCE);
                if now < due {
                    return Health::Heard { again: Some(due) };
                }
                let off = if facts.out_of_service { ", and is marked out of service" } else { "" };
                Health::Unheard(format!("node {} is silent since {since}{off}", facts.name))
            }
        }
    }

    /// Why a launcher pod is gone that nobody saw end, if it is because of its node.
    pub(super) fn took_its_pods(&self, word: Option<Timestamp>, now: Timestamp) -> Option<String> {
        match (self, self.health(word, now)) {
            (Self::Gone(name), _) => Some(format!("node {name} doesn't exist any more")),
            (_, Health::Unheard(why)) => Some(why),
            (Self::Here(facts), Health::Heard { .. }) if facts.out_of_service => {
                Some(format!("node {} is marked out of service", facts.name))
            }
            (Self::None | Self::Here(_), Health::Heard { .. }) => None,
        }
    }
}

impl NodeFacts {
    fn of(name: &str, node: &Node, heartbeat: Option<Timestamp>) -> Self {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        Self {
            name: name.to_owned(),
            not_ready_since: gate::not_ready_since(node),
            heartbeat,
            out_of_service: taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE),
        }
    }
}
