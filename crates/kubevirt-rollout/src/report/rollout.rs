//! When each component, and each node's virt-handler, was replaced: as the pods themselves say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observed::{Observed, Pod};
use crate::order;

/// When something was replaced, in seconds since the update's start: pods say no more than whole seconds, by the clocks of
/// those who write them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// The first new pod was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// The first new pod was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<i64>,
    /// The last old pod was told to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_told: Option<i64>,
    /// The last old pod was seen no more. One that carries streams may stay for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_gone: Option<i64>,
}

/// When a component was replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// All of it.
    #[serde(flatten)]
    pub times: Times,
    /// A new pod became ready for the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ready: Option<i64>,
    /// Pods from before that are still there.
    pub old_left: usize,
    /// Each node; of virt-handler only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, Times>,
    /// Nodes that were replaced and aren't listed, because there were too many: those that took the shortest time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nodes_left_out: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Times {
    /// From a new pod's creation until it was ready, in seconds; none of one that isn't.
    pub fn took(&self) -> Option<i64> {
        Some(self.ready? - self.created?)
    }

    fn see(&mut self, pod: &Pod, new: bool, since: impl Fn(Timestamp) -> i64) {
        let first = |known: Option<i64>, seen: i64| Some(known.map_or(seen, |known| known.min(seen)));
        if new {
            self.created = first(self.created, since(pod.created));
            if let Some(ready) = pod.ready_since {
                self.ready = first(self.ready, since(ready));
            }
        } else if let Some(told) = pod.deleting_since {
            self.old_told = self.old_told.max(Some(since(told)));
        }
    }
}

/// Takes in the pods. New is one that was made since the start: an update makes no others.
pub(super) fn fold(
    components: &mut BTreeMap<String, Component>,
    observed: &Observed,
    started: Timestamp,
    now: Timestamp,
) {
    let since = |at: Timestamp| at.as_second() - started.as_second();
    for component in order::Component::ALL {
        let name = component.name();
        let seen = components.entry(name.to_owned()).or_default();
        let by_node = component == order::Component::Handler;
        let mut old: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in observed.pods.iter().filter(|pod| pod.component == name) {
            let new = since(pod.created) >= 0;
            seen.times.see(pod, new, since);
            if let (true, Some(ready)) = (new, pod.ready_since) {
                seen.last_ready = seen.last_ready.max(Some(since(ready)));
            }
            let node = pod.node.as_deref().unwrap_or_default();
            if !new {
                *old.entry(node).or_default() += 1;
            }
            if by_node && !node.is_empty() {
                seen.nodes.entry(node.to_owned()).or_default().see(pod, new, since);
            }
        }
        seen.old_left = old.values().sum();
        gone(&mut seen.times, seen.old_left == 0, since(now));
        for (node, times) in &mut seen.nodes {
            gone(times, !old.contains_key(node.as_str()), since(now));
        }
    }
}

/// Takes note of when no old pod was left where there is a new one.
fn gone(times: &mut Times, none_left: bool, now: i64) {
    if none_left && times.created.is_some() {
        times.old_gone.get_or_insert(now);
    }
}
