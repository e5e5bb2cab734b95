//! Writes of ours that the watches haven't shown yet. Pure but for the clock of their patience.
//!
//! A plan that is made from a view of before our own last write would repeat it. The API server
//! would refuse that, but a certificate would have been made in vain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kubevirt_types::ObjectKey;
use serde_json::Value;

use crate::apply::Written;

/// A watch is behind by milliseconds. An object that it hasn't shown in this time isn't watched.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes that haven't been seen.
#[derive(Debug, Default)]
pub struct Expected {
    writes: BTreeMap<ObjectKey, (Option<String>, Instant)>,
}

impl Expected {
    /// Takes note of writes.
    pub fn note(&mut self, written: &[Written]) {
        for write in written {
            self.writes.insert(write.key.clone(), (write.resource_version.clone(), Instant::now()));
        }
    }

    /// Forgets what `look` shows by now, and names the rest.
    pub fn unseen(&mut self, look: impl Fn(&ObjectKey) -> Option<Value>) -> Vec<String> {
        self.writes.retain(|key, (written, since)| {
            !seen(written.as_deref(), look(key).as_ref()) && since.elapsed() < PATIENCE
        });
        self.writes.keys().map(|key| format!("our last write of {key}")).collect()
    }
}

/// Whether a view shows a write or what came after it.
fn seen(written: Option<&str>, view: Option<&Value>) -> bool {
    match (written, view) {
        (None, None) => true,
        (None, Some(object)) => object["metadata"].get("deletionTimestamp").is_some(),
        (Some(_), None) => false,
        (Some(written), Some(object)) => {
            let number = |version: &str| version.parse::<u64>().ok();
            let shown = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            number(shown) >= number(written)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_write_is_expected_until_it_or_a_later_one_is_seen() {
        let at = |version: &str| json!({"metadata": {"resourceVersion": version}});
        assert!(!seen(Some("9"), None));
        assert!(!seen(Some("10"), Some(&at("9"))));
        assert!(seen(Some("10"), Some(&at("10"))));
        assert!(seen(Some("10"), Some(&at("11"))));
        assert!(seen(None, None));
        assert!(!seen(None, Some(&at("9"))));
        assert!(seen(None, Some(&json!({"metadata": {"deletionTimestamp": "now"}}))));
    }

    #[test]
    fn what_is_unseen_is_named() {
        let key = ObjectKey::cluster("v1", "Node", "a");
        let mut expected = Expected::default();
        expected.note(&[Written { key: key.clone(), resource_version: Some("2".into()) }]);
        assert_eq!(expected.unseen(|_| None), ["our last write of Node a"]);
        let seen = expected.unseen(|_| Some(json!({"metadata": {"resourceVersion": "2"}})));
        assert!(seen.is_empty());
        assert!(expected.unseen(|_| None).is_empty(), "it was seen once");
    }
}
