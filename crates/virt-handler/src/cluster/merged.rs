//! One cache of what two watches see of the same kind of objects.
//!
//! An object may be seen by either watch or by both, and goes from one to the other when its
//! labels change: it is gone when neither sees it. Never watches anything itself.

use std::collections::HashMap;

use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;

/// One of the two watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    #[allow(missing_docs)]
    One,
    #[allow(missing_docs)]
    Other,
}

/// What one watch sees.
struct Seen<K: Resource<DynamicType = ()>> {
    objects: HashMap<ObjectRef<K>, K>,
    /// A list that isn't complete yet.
    listing: HashMap<ObjectRef<K>, K>,
    listed: bool,
}

impl<K: Resource<DynamicType = ()>> Default for Seen<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), listing: HashMap::new(), listed: false }
    }
}

/// Fills a [`Store`] from two watches.
pub struct Merged<K: Resource<DynamicType = ()> + Clone + 'static> {
    one: Seen<K>,
    other: Seen<K>,
    writer: Writer<K>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Default for Merged<K> {
    fn default() -> Self {
        Self { one: Seen::default(), other: Seen::default(), writer: Writer::default() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Merged<K> {
    /// The cache. Ready when both watches have listed what there is.
    pub fn store(&self) -> Store<K> {
        self.writer.as_reader()
    }

    /// Takes what a watch says. Returns who should be looked at again.
    pub fn apply(&mut self, side: Side, event: Event<K>) -> Vec<ObjectRef<K>> {
        let seen = match side {
            Side::One => &mut self.one,
            Side::Other => &mut self.other,
        };
        match event {
            Event::Init => {
                seen.listing = HashMap::new();
                Vec::new()
            }
            Event::InitApply(object) => {
                seen.listing.insert(ObjectRef::from_obj(&object), object);
                Vec::new()
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut seen.objects, std::mem::take(&mut seen.listing));
                let all_were_listed = self.one.listed && self.other.listed;
                self.seen(side).listed = true;
                if all_were_listed { self.settle_all(side, before) } else { self.begin() }
            }
            Event::Apply(object) => {
                let key = ObjectRef::from_obj(&object);
                seen.objects.insert(key.clone(), object.clone());
                self.settle(&key, &object);
                vec![key]
            }
            Event::Delete(object) => {
                let key = ObjectRef::from_obj(&object);
                seen.objects.remove(&key);
                self.settle(&key, &object);
                vec![key]
            }
        }
    }

    fn seen(&mut self, side: Side) -> &mut Seen<K> {
        match side {
            Side::One => &mut self.one,
            Side::Other => &mut self.other,
        }
    }

    /// Fills the cache for the first time, once both watches have listed.
    fn begin(&mut self) -> Vec<ObjectRef<K>> {
        if !(self.one.listed && self.other.listed) {
            return Vec::new();
        }
        let mut keys: Vec<_> = self.one.objects.keys().cloned().collect();
        keys.extend(self.other.objects.keys().filter(|key| !self.one.objects.contains_key(*key)).cloned());
        self.writer.apply_watcher_event(&Event::Init);
        for key in &keys {
            if let Some(object) = self.freshest(key) {
                self.writer.apply_watcher_event(&Event::InitApply(object));
            }
        }
        self.writer.apply_watcher_event(&Event::InitDone);
        keys
    }

    /// A watch has listed anew: what it has seen before may be gone.
    fn settle_all(&mut self, side: Side, before: HashMap<ObjectRef<K>, K>) -> Vec<ObjectRef<K>> {
        let mut all = before;
        all.extend(self.seen(side).objects.iter().map(|(key, object)| (key.clone(), object.clone())));
        for (key, object) in &all {
            self.settle(key, object);
        }
        all.into_keys().collect()
    }

    /// Brings the cache up to date on one object; `last` is any version of it.
    fn settle(&mut self, key: &ObjectRef<K>, last: &K) {
        if !(self.one.listed && self.other.listed) {
            return;
        }
        let event = match self.freshest(key) {
            Some(object) => Event::Apply(object),
            None => Event::Delete(last.clone()),
        };
        self.writer.apply_watcher_event(&event);
    }

    /// The newer one of what the two watches see. An older one would do no harm: what is decided
    /// from it can't be written.
    fn freshest(&self, key: &ObjectRef<K>) -> Option<K> {
        match (self.one.objects.get(key), self.other.objects.get(key)) {
            (Some(one), Some(other)) if version(other) > version(one) => Some(other.clone()),
            (Some(one), _) => Some(one.clone()),
            (None, other) => other.cloned(),
        }
    }
}

fn version<K: Resource<DynamicType = ()>>(object: &K) -> Option<u128> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, version: u32) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("default".into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn list(merged: &mut Merged<ConfigMap>, side: Side, objects: &[(&str, u32)]) -> usize {
        merged.apply(side, Event::Init);
        for (name, version) in objects {
            merged.apply(side, Event::InitApply(object(name, *version)));
        }
        merged.apply(side, Event::InitDone).len()
    }

    fn content(merged: &Merged<ConfigMap>) -> Vec<(String, String)> {
        let text = |text: &Option<String>| text.clone().unwrap();
        let mut all: Vec<_> = merged
            .store()
            .state()
            .iter()
            .map(|o| (text(&o.metadata.name), text(&o.metadata.resource_version)))
            .collect();
        all.sort();
        all
    }

    fn are(expected: &[(&str, u32)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, version)| ((*name).to_owned(), version.to_string())).collect()
    }

    #[tokio::test]
    async fn ready_is_when_both_have_listed() {
        let mut merged = Merged::default();
        let store = merged.store();
        let mut ready = Box::pin(store.wait_until_ready());
        assert_eq!(list(&mut merged, Side::One, &[("a", 9)]), 0);
        merged.apply(Side::One, Event::Apply(object("b", 10)));
        assert!(futures::poll!(&mut ready).is_pending());
        assert_eq!(content(&merged), are(&[]), "half of it would look like all of it");
        assert_eq!(list(&mut merged, Side::Other, &[("a", 11), ("c", 3)]), 3, "all are looked at, once");
        ready.await.unwrap();
        assert_eq!(content(&merged), are(&[("a", 11), ("b", 10), ("c", 3)]));
    }

    #[test]
    fn an_object_is_gone_when_neither_sees_it_and_the_newer_one_counts() {
        use Side::{One, Other};
        let mut merged = Merged::default();
        list(&mut merged, One, &[("a", 1)]);
        list(&mut merged, Other, &[]);
        let table = [
            (Other, Event::Apply(object("a", 2)), vec![("a", 2)]),
            // One of them is late.
            (One, Event::Apply(object("a", 3)), vec![("a", 3)]),
            (Other, Event::Apply(object("a", 3)), vec![("a", 3)]),
            // 10 is more than 9, though not as text.
            (Other, Event::Apply(object("a", 10)), vec![("a", 10)]),
            (One, Event::Apply(object("a", 9)), vec![("a", 10)]),
            // Its label went to the other side's.
            (One, Event::Delete(object("a", 11)), vec![("a", 10)]),
            (Other, Event::Apply(object("a", 11)), vec![("a", 11)]),
            (Other, Event::Delete(object("a", 12)), vec![]),
            (One, Event::Delete(object("b", 1)), vec![]),
        ];
        for (n, (side, event, expected)) in table.into_iter().enumerate() {
            assert_eq!(merged.apply(side, event).len(), 1, "{n}");
            assert_eq!(content(&merged), are(&expected), "{n}");
        }
    }

    #[test]
    fn a_watch_that_lists_anew_takes_away_only_what_it_alone_has_seen() {
        let mut merged = Merged::default();
        list(&mut merged, Side::One, &[("a", 1), ("b", 1), ("c", 1)]);
        list(&mut merged, Side::Other, &[("b", 1), ("d", 1)]);
        assert_eq!(list(&mut merged, Side::One, &[("a", 2), ("e", 2)]), 4);
        assert_eq!(content(&merged), are(&[("a", 2), ("b", 1), ("d", 1), ("e", 2)]));
    }
}
