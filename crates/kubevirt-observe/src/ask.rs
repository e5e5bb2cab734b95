//! What lists and watches don't tell and has to be asked for. Never writes, but for one dry run.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use http::Request;
use kube::Client;
use kube::api::{ListParams, PostParams};
use kubevirt_rollout::GUARD_PROBE;
use kubevirt_rollout::observed::Instances;
use kubevirt_types::{Kind, KubeVirt, ObjectKey};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::kinds::{self, ADMISSION_POLICY, CONFIG_MAP, CRD, KUBEVIRT};
use crate::said;
use crate::source::Source;
use crate::world::kubevirts as kubevirts_of;

/// Nothing that is asked for here takes longer on a cluster that works.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// How many objects of a kind are named in messages.
const NAMED: u32 = 3;

/// Why the cluster couldn't be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server didn't say.
    #[error("asking for {what}: {}", said(error))]
    Ask {
        #[allow(missing_docs)]
        what: String,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
    /// The API server said nothing.
    #[error("asking for {what}: no answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout {
        #[allow(missing_docs)]
        what: String,
    },
    /// It can't be asked for.
    #[error("asking for {what}: {api_version} {kind} is not in the table of kinds", kind = what.kind, api_version = what.api_version)]
    UnknownKind {
        #[allow(missing_docs)]
        what: Box<ObjectKey>,
    },
}

impl ObserveError {
    /// The API server's code, where it answered.
    pub fn code(&self) -> Option<u16> {
        refusal(self).map(|(code, _)| code)
    }
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Whether the guard is enforced.
    pub guard_active: bool,
    /// How many objects of each of our kinds there are.
    pub instances: BTreeMap<String, Instances>,
}

/// All that a plan needs and that no list tells.
pub async fn all(client: &Client, source: &impl Source, namespace: &str) -> Result<Asked, ObserveError> {
    Ok(Asked {
        guard_active: guarded(client, source, namespace).await?,
        instances: counted(client, source, namespace).await?,
    })
}

/// Whether the guard is enforced. Where there is none nobody is asked.
pub async fn guarded(client: &Client, source: &impl Source, namespace: &str) -> Result<bool, ObserveError> {
    Ok(!source.of_kind(ADMISSION_POLICY).is_empty() && guard_active(client, namespace).await?)
}

/// How many objects of each of our kinds there are.
pub async fn counted(
    client: &Client,
    source: &impl Source,
    namespace: &str,
) -> Result<BTreeMap<String, Instances>, ObserveError> {
    let (kubevirt, _) = kubevirts_of(&source.of_kind(KUBEVIRT), namespace);
    let uninstalling = kubevirt.as_ref().is_some_and(KubeVirt::is_deleting);
    instances(client, &source.of_kind(CRD), uninstalling).await
}

/// The KubeVirt objects of the whole cluster, as metadata.
pub async fn kubevirts(client: &Client) -> Result<Vec<Value>, ObserveError> {
    let url = format!("/apis/{}/{}", kubevirt_types::API_VERSION, Kind::KubeVirt.plural());
    let listed = ask(client, "KubeVirt objects", list_metadata(&url, None)).await?;
    Ok(listed["items"].as_array().cloned().unwrap_or_default())
}

fn list_metadata(url: &str, limit: Option<u32>) -> Request<Vec<u8>> {
    let params = ListParams { limit, ..ListParams::default() };
    kube::core::Request::new(url).list_metadata(&params).expect("names of namespaces and kinds make a URL")
}

async fn ask(client: &Client, what: &str, request: Request<Vec<u8>>) -> Result<Value, ObserveError> {
    match timeout(REQUEST_LIMIT, client.request::<Value>(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ObserveError::Ask { what: what.to_owned(), error: Box::new(error) }),
        Err(_) => Err(ObserveError::Timeout { what: what.to_owned() }),
    }
}

/// The code and the message with which the API server refused.
fn refusal(error: &ObserveError) -> Option<(u16, &str)> {
    match error {
        ObserveError::Ask { error, .. } => match error.as_ref() {
            kube::Error::Api(status) => Some((status.code, &status.message)),
            _ => None,
        },
        ObserveError::Timeout { .. } | ObserveError::UnknownKind { .. } => None,
    }
}

/// One object; none when it doesn't exist.
pub async fn get(client: &Client, key: &ObjectKey) -> Result<Option<Value>, ObserveError> {
    let unknown = || ObserveError::UnknownKind { what: Box::new(key.clone()) };
    let url = kinds::find(key).ok_or_else(unknown)?.url(key.namespace.as_deref());
    let request =
        kube::core::Request::new(url).get(&key.name, &Default::default()).expect("a key makes a URL");
    match ask(client, &key.to_string(), request).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the guard refuses what it is there to refuse: a new policy takes the API servers a while. Asked by a dry run,
/// which stores nothing.
async fn guard_active(client: &Client, namespace: &str) -> Result<bool, ObserveError> {
    let key = ObjectKey::namespaced("v1", CONFIG_MAP, namespace, GUARD_PROBE);
    let body = json!({
        "apiVersion": key.api_version, "kind": key.kind, "metadata": {"name": GUARD_PROBE, "namespace": namespace},
    });
    let params = PostParams { dry_run: true, field_manager: None };
    let row = kinds::find(&key).expect("ConfigMaps are in the table");
    let request = kube::core::Request::new(row.url(Some(namespace)))
        .create(&params, body.to_string().into_bytes())
        .expect("a namespace makes a URL");
    match ask(client, "the guard", request).await {
        Ok(_) => Ok(false),
        Err(error) if refusal(&error).is_some_and(|(_, why)| why.contains("ValidatingAdmissionPolicy")) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// How many objects of each of our kinds there are, for the kinds that have a definition. How many
/// are being deleted matters only at uninstall, and only there all of them are listed.
pub async fn instances(
    client: &Client,
    definitions: &[Value],
    uninstalling: bool,
) -> Result<BTreeMap<String, Instances>, ObserveError> {
    let defined = Kind::ALL.into_iter().filter(|kind| *kind != Kind::KubeVirt).filter_map(|kind| {
        let name = format!("{}.{}", kind.plural(), kubevirt_types::GROUP);
        let definition = definitions.iter().find(|definition| definition["metadata"]["name"] == name)?;
        Some((kind.plural(), served_version(definition)?))
    });
    let limit = if uninstalling { None } else { Some(NAMED) };
    try_join_all(defined.map(async |(plural, version)| {
        let url = format!("/apis/{}/{version}/{plural}", kubevirt_types::GROUP);
        let counted = match ask(client, plural, list_metadata(&url, limit)).await {
            Ok(list) => count(&list),
            // defined a moment ago, and not served yet
            Err(error) if error.code() == Some(404) => Instances::default(),
            Err(error) => return Err(error),
        };
        Ok((plural.to_owned(), counted))
    }))
    .await
    .map(BTreeMap::from_iter)
}

fn served_version(definition: &Value) -> Option<&str> {
    let versions = definition["spec"]["versions"].as_array()?;
    versions.iter().find(|version| version["served"] == true)?["name"].as_str()
}

/// What a list, whole or its first page, says about all objects.
fn count(list: &Value) -> Instances {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    let name = |item: &Value| {
        let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    };
    Instances {
        count: items.len() + usize::try_from(more).unwrap_or(usize::MAX),
        deleting: items.iter().filter(|item| item["metadata"].get("deletionTimestamp").is_some()).count(),
        some: items.iter().take(NAMED as usize).map(name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_page_counts_what_it_leaves_out() {
        let list = json!({
            "metadata": {"remainingItemCount": 40},
            "items": [
                {"metadata": {"namespace": "a", "name": "x"}},
                {"metadata": {"namespace": "b", "name": "y", "deletionTimestamp": "now"}},
            ],
        });
        assert_eq!(
            count(&list),
            Instances { count: 42, deleting: 1, some: vec!["a/x".into(), "b/y".into()] }
        );
        assert_eq!(count(&json!({"metadata": {}, "items": []})), Instances::default());
    }

    #[test]
    fn a_kind_is_asked_for_in_a_version_that_is_served() {
        let definition = json!({"spec": {"versions": [
            {"name": "v1alpha2", "served": false}, {"name": "v1", "served": true}]}});
        assert_eq!(served_version(&definition), Some("v1"));
    }
}
