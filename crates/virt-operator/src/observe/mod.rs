//! Sees the cluster for the leader: what the watches show, what has to be asked for, and what the leader knows of its
//! own writes.
//!
//! What objects say is read by `kubevirt_observe`; this only says whether a view is one to plan from.

mod expected;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::Client;
use kubevirt_observe::strategy::Strategies;
use kubevirt_observe::{ObserveError, Source, ask, kinds, world};
use kubevirt_rollout::Observed;
use kubevirt_rollout::observed::Operator;
use kubevirt_types::ObjectKey;
use serde_json::Value;

use crate::apply::Applied;
use crate::cache::Cache;
use expected::Expected;

/// Sees the cluster.
pub struct Observer {
    client: Client,
    cache: Cache,
    operator: Operator,
    expected: Expected,
    unlabelled: BTreeSet<ObjectKey>,
    strategies: Strategies,
}

impl Observer {
    /// An observer of what the cache holds.
    pub fn new(client: Client, cache: Cache, operator: Operator) -> Self {
        Self {
            client,
            cache,
            operator,
            expected: Expected::default(),
            unlabelled: BTreeSet::from(kinds::never_labelled()),
            strategies: Strategies::default(),
        }
    }

    /// Takes note of what was written, so that no view from before it is taken for the present.
    pub fn note(&mut self, applied: &Applied) {
        self.expected.note(&applied.written);
        self.unlabelled.extend(applied.found.iter().cloned());
    }

    /// What the watches haven't shown yet: kinds that aren't listed, and writes of ours.
    pub fn behind(&mut self) -> Vec<String> {
        let unlisted = self.cache.unlisted().into_iter().map(|kind| format!("the list of every {kind}"));
        unlisted.chain(self.expected.unseen(|key| self.cache.get(key))).collect()
    }

    /// Everything, as of now.
    pub async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let unlabelled = self.unlabelled().await?;
        let asked = ask::all(&self.client, &self.cache, &self.operator.namespace).await?;
        let now = Timestamp::now();
        let seen = world(&self.cache, &self.operator, asked, unlabelled, &mut self.strategies, now);
        Ok(Observed { synced: self.behind().is_empty(), ..seen })
    }

    /// The objects that should be labelled as ours and aren't, so that no watch shows them.
    async fn unlabelled(&mut self) -> Result<BTreeMap<ObjectKey, Value>, ObserveError> {
        // once it is applied it is labelled, and comes from the watch
        self.unlabelled.retain(|key| self.cache.get(key).is_none());
        let mut found = BTreeMap::new();
        for key in self.unlabelled.clone() {
            match ask::get(&self.client, &key).await? {
                Some(object) => {
                    found.insert(key, object);
                }
                None => {
                    self.unlabelled.remove(&key);
                }
            }
        }
        Ok(found)
    }
}
