//! `update retry`: asks for another try of a version that has failed.

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kubevirt_types::KubeVirt;
use kubevirt_types::kubevirt::FailedUpdate;
use kubevirt_types::labels::RETRY_UPDATE;
use serde_json::{Value, json};

use super::observe::installation;
use crate::cluster::{Cluster, words};
use crate::terminal::say;

/// Who wrote the annotation.
const FIELD_MANAGER: &str = "virtctl";

/// Nothing is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetryError {
    #[error("can't read the installation: {}", words(.0))]
    Look(Box<kube::Error>),
    #[error("there is no KubeVirt object in this cluster")]
    NotInstalled,
    #[error("nothing has failed: there is nothing to try again")]
    NothingFailed,
    #[error("another try of {version} was asked for already; virtctl update watch shows it")]
    AskedAlready { version: String },
    #[error("can't ask for another try of {version}: {}", words(cause))]
    Write { version: String, cause: Box<kube::Error> },
}

/// Asks for another try.
pub(crate) async fn retry(cluster: &Cluster) -> Result<(), RetryError> {
    let look = |error| RetryError::Look(Box::new(error));
    let kubevirt = installation(&cluster.client).await.map_err(look)?.ok_or(RetryError::NotInstalled)?;
    let failed = failed(&kubevirt)?;
    let patch = Patch::Merge(request(&kubevirt, Timestamp::now()));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<KubeVirt> = Api::namespaced(cluster.client.clone(), kubevirt.namespace());
    api.patch(kubevirt.name(), &params, &patch)
        .await
        .map_err(|cause| RetryError::Write { version: failed.version.clone(), cause: Box::new(cause) })?;
    say(&format!("{} is tried again: virtctl update watch shows it", failed.version));
    Ok(())
}

/// The failure that is to be forgotten.
fn failed(kubevirt: &KubeVirt) -> Result<&FailedUpdate, RetryError> {
    let status = kubevirt.status.as_ref();
    let failed = status.and_then(|status| status.failed_update.as_ref()).ok_or(RetryError::NothingFailed)?;
    let annotations = kubevirt.metadata.annotations.as_ref();
    let asked = annotations.and_then(|annotations| annotations.get(RETRY_UPDATE));
    if asked != failed.retry.as_ref() {
        return Err(RetryError::AskedAlready { version: failed.version.clone() });
    }
    Ok(failed)
}

/// The annotation with a new value, on the object that was seen: another one's failure isn't forgotten by this.
fn request(kubevirt: &KubeVirt, now: Timestamp) -> Value {
    json!({"metadata": {"uid": kubevirt.uid(), "annotations": {RETRY_UPDATE: now.to_string()}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubevirt(failed: Value, annotation: Option<&str>) -> KubeVirt {
        serde_json::from_value(json!({
            "metadata": {
                "name": "kubevirt", "namespace": "kv", "uid": "u",
                "annotations": annotation.map(|value| json!({RETRY_UPDATE: value})),
            },
            "spec": {},
            "status": {"failedUpdate": failed},
        }))
        .unwrap()
    }

    fn failure(retry: Option<&str>) -> Value {
        json!({
            "deploymentID": "id", "version": "v0.18.0", "component": "virt-api", "cause": "c",
            "at": "2026-01-01T00:00:00Z", "action": "Rollback", "retry": retry,
        })
    }

    #[test]
    fn only_what_has_failed_is_tried_again_and_only_once_at_a_time() {
        let said = |kubevirt: KubeVirt| failed(&kubevirt).map(|_| ()).map_err(|error| error.to_string());
        let nothing = "nothing has failed: there is nothing to try again";
        assert_eq!(said(kubevirt(Value::Null, None)), Err(nothing.to_owned()));
        assert_eq!(said(kubevirt(failure(None), None)), Ok(()));
        assert_eq!(said(kubevirt(failure(Some("t1")), Some("t1"))), Ok(()));
        let asked = said(kubevirt(failure(None), Some("t1"))).unwrap_err();
        assert!(asked.starts_with("another try of v0.18.0 was asked for already"), "{asked}");
    }

    #[test]
    fn the_request_is_a_new_value_on_the_object_that_was_seen() {
        let now = "2026-01-01T00:00:00.5Z".parse().unwrap();
        assert_eq!(
            request(&kubevirt(failure(None), None), now),
            json!({"metadata": {"uid": "u", "annotations": {"kubevirt.io/retry-update": "2026-01-01T00:00:00.5Z"}}})
        );
    }
}
