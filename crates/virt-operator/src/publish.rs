//! Writes the status of KubeVirt objects: once a round, and only what has changed.

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kubevirt_observe::Source;
use kubevirt_observe::kinds::KUBEVIRT;
use kubevirt_rollout::status::refused_duplicate;
use kubevirt_types::kubevirt::KubeVirtStatus;
use kubevirt_types::{KubeVirt, ObjectKey};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::apply::request::{self, RequestError};
use crate::cache::Cache;

/// A status is one small write.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Why a status wasn't written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The API server refused it.
    #[error("the status of {key}: {}", crate::said(error))]
    Refused {
        #[allow(missing_docs)]
        key: Box<ObjectKey>,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("the status of {key}: no answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout {
        #[allow(missing_docs)]
        key: Box<ObjectKey>,
    },
    /// It can't be sent.
    #[error("the status of {key}")]
    Request {
        #[allow(missing_docs)]
        key: Box<ObjectKey>,
        #[source]
        #[allow(missing_docs)]
        source: RequestError,
    },
}

/// Writes statuses.
pub struct Publisher {
    client: Client,
    cache: Cache,
}

impl Publisher {
    /// A publisher that finds refused objects in the cache.
    pub fn new(client: Client, cache: Cache) -> Self {
        Self { client, cache }
    }

    /// Writes what has changed of a status. An object that has changed in between gets its status from
    /// the next round.
    pub async fn publish(&self, kubevirt: &KubeVirt, status: &KubeVirtStatus) -> Result<(), PublishError> {
        let before = kubevirt.status.clone().unwrap_or_default();
        let Some(change) = merge_patch(&to_value(&before), &to_value(status)) else { return Ok(()) };
        let key = ObjectKey::namespaced(
            kubevirt_types::API_VERSION,
            KUBEVIRT,
            kubevirt.namespace(),
            kubevirt.name(),
        );
        let resource_version = kubevirt.metadata.resource_version.as_deref().unwrap_or_default();
        let request = request::set_status(&key, kubevirt.uid(), resource_version, &change)
            .map_err(|source| PublishError::Request { key: Box::new(key.clone()), source })?;
        match timeout(REQUEST_LIMIT, self.client.request::<Value>(request)).await {
            Ok(Ok(_)) => Ok(()),
            // changed or gone since we looked
            Ok(Err(kube::Error::Api(refusal))) if matches!(refusal.code, 404 | 409) => Ok(()),
            Ok(Err(error)) => Err(PublishError::Refused { key: Box::new(key), error: Box::new(error) }),
            Err(_) => Err(PublishError::Timeout { key: Box::new(key) }),
        }
    }

    /// Says on a KubeVirt object that it isn't carried out, and why.
    pub async fn refuse(
        &self,
        key: &ObjectKey,
        active: Option<&KubeVirt>,
        namespace: &str,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let object = self.cache.get(key).and_then(|object| serde_json::from_value::<KubeVirt>(object).ok());
        match object {
            Some(other) => self.publish(&other, &refused_duplicate(&other, active, namespace, now)).await,
            None => Ok(()),
        }
    }
}

fn to_value(status: &KubeVirtStatus) -> Value {
    serde_json::to_value(status).expect("a status is JSON")
}

/// The merge patch from one value to another; none when they are the same.
fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return Some(after.clone()) };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        Some((key.clone(), merge_patch(old.get(key).unwrap_or(&Value::Null), value)?))
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_says_only_what_has_changed() {
        let before = json!({"a": 1, "b": {"x": 1, "y": 2}, "c": [1], "d": 4});
        let after = json!({"a": 1, "b": {"x": 1, "y": 3}, "c": [1, 2], "e": {"z": 1}});
        assert_eq!(
            merge_patch(&before, &after),
            Some(json!({"d": null, "b": {"y": 3}, "c": [1, 2], "e": {"z": 1}}))
        );
        assert_eq!(merge_patch(&after, &after), None);
    }
}
