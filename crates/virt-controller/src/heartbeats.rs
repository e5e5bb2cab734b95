//! When heartbeats of virt-handlers came, by this process's clock.
//!
//! A heartbeat says a time, but a node's clock may be wrong: one that is behind would make a virt-handler silent that
//! writes all the time, and both would write an instance's Ready against each other. So only that the text has changed
//! counts, and when that was seen here. What is seen for the first time counts as new: a controller that has
//! just started contradicts nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kubevirt_types::labels;

use crate::vmi::node::NodeSeen;

/// The last heartbeat of each node, and when it was first seen.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats(Arc<Mutex<BTreeMap<String, (String, Timestamp)>>>);

impl Heartbeats {
    /// A node was seen: when its heartbeat came, if it ever had one.
    pub fn seen(&self, node: &Node, now: Timestamp) -> Option<Timestamp> {
        let text = node.metadata.annotations.as_ref()?.get(labels::HEARTBEAT)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all
            .entry(node.metadata.name.clone().unwrap_or_default())
            .and_modify(|last| {
                if last.0 != *text {
                    *last = (text.clone(), now);
                }
            })
            .or_insert_with(|| (text.clone(), now));
        Some(last.1)
    }

    /// There is no such node any more.
    pub fn gone(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// What is known of the node of this name, which was just read.
    pub fn node(&self, name: Option<&str>, node: Option<&Node>, now: Timestamp) -> NodeSeen {
        NodeSeen::of(name, node, node.and_then(|node| self.seen(node, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_change_counts_whatever_time_it_says() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let node = |text: &str| {
            let metadata = json!({"name": "n1", "annotations": {labels::HEARTBEAT: text}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let heartbeats = Heartbeats::default();
        // An hour behind, then an hour ahead, and in the form in which KubeVirt writes it.
        for (now, text, expected) in [
            (1_000_000, "1970-01-12T12:46:40Z", 1_000_000),
            (1_000_050, "1970-01-12T12:46:40Z", 1_000_000),
            (1_000_060, "\"1970-01-12T14:47:40Z\"", 1_000_060),
            (1_000_200, "\"1970-01-12T14:47:40Z\"", 1_000_060),
        ] {
            assert_eq!(heartbeats.seen(&node(text), at(now)), Some(at(expected)), "{now} {text}");
        }
        assert_eq!(heartbeats.seen(&Node::default(), at(1_000_200)), None);
        heartbeats.gone("n1");
        assert_eq!(heartbeats.seen(&node("x"), at(1_000_300)), Some(at(1_000_300)));
    }
}
