//! Which objects an owner controls, by the owner's uid: an index beside a cache.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::owner;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    #[allow(missing_docs)]
    pub namespace: String,
    #[allow(missing_docs)]
    pub name: String,
}

impl Key {
    /// An object's key.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The key of the controller of an object, if that is of this kind.
    pub fn of_controller(metadata: &ObjectMeta, kind: &str) -> Option<Self> {
        let owner = owner::controller_of(metadata).filter(|owner| owner.kind == kind)?;
        Some(Self { namespace: metadata.namespace.clone().unwrap_or_default(), name: owner.name.clone() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The index. Clones share it. It may name objects that are gone or have another owner by now;
/// readers look them up in the cache and check.
#[derive(Debug, Clone, Default)]
pub struct Children {
    by_owner: Arc<Mutex<HashMap<String, BTreeSet<Key>>>>,
}

impl Children {
    /// Notes an object that is there.
    pub fn insert(&self, metadata: &ObjectMeta) {
        if let Some(owner) = owner::controller_of(metadata) {
            self.lock().entry(owner.uid.clone()).or_default().insert(Key::of(metadata));
        }
    }

    /// Forgets an object that is gone.
    pub fn remove(&self, metadata: &ObjectMeta) {
        let Some(owner) = owner::controller_of(metadata) else { return };
        let mut by_owner = self.lock();
        if let Some(keys) = by_owner.get_mut(&owner.uid) {
            keys.remove(&Key::of(metadata));
            if keys.is_empty() {
                by_owner.remove(&owner.uid);
            }
        }
    }

    /// Starts again with the objects that a new list has.
    pub fn rebuild<'a>(&self, all: impl Iterator<Item = &'a ObjectMeta>) {
        self.lock().clear();
        for metadata in all {
            self.insert(metadata);
        }
    }

    /// What an owner may control.
    pub fn of(&self, uid: &str) -> Vec<Key> {
        self.lock().get(uid).into_iter().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<Key>>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn follows_objects_and_their_owners() {
        let metadata = |name: &str, uid: &str| -> ObjectMeta {
            serde_json::from_value(json!({
                "name": name, "namespace": "ns",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "K", "name": "o", "uid": uid, "controller": true}
                ],
            }))
            .unwrap()
        };
        let children = Children::default();
        children.insert(&metadata("a", "1"));
        children.insert(&metadata("b", "1"));
        assert_eq!(children.of("1").len(), 2);
        children.remove(&metadata("a", "1"));
        assert_eq!(children.of("1").iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b"]);
        children.rebuild([metadata("c", "2")].iter());
        assert!(children.of("1").is_empty());
        assert_eq!(Key::of_controller(&metadata("c", "2"), "K").unwrap().to_string(), "ns/o");
        assert_eq!(Key::of_controller(&metadata("c", "2"), "Other"), None);
    }
}
