//! Steps as requests to the API server: pure, so that what is sent is tested without a cluster.

use http::Request;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kubevirt_observe::kinds::{self, KindRow, NODE};
use kubevirt_rollout::{Precondition, is_subset};
use kubevirt_types::ObjectKey;
use serde_json::{Map, Value, json};

use crate::FIELD_MANAGER;

/// A server-side apply that carries a resourceVersion is refused unless the object has it. No object
/// ever has this one (a cluster's first revision is taken before any object), so an apply that
/// carries it creates, or is refused because the object is there. A POST would say the same, but its fields would
/// be owned as those of an update, which later applies can't take away.
const NEVER_STORED: &str = "1";

/// Why a step can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The manifest isn't an object.
    #[error("a manifest has no apiVersion, kind or name")]
    NotAnObject,
    /// The release has a kind that this operator doesn't know.
    #[error("{key}: this virt-operator doesn't know {api_version} {kind}", kind = key.kind, api_version = key.api_version)]
    UnknownKind {
        #[allow(missing_docs)]
        key: Box<ObjectKey>,
    },
    /// The request couldn't be written.
    #[error("writing the request for {key}")]
    Build {
        #[allow(missing_docs)]
        key: Box<ObjectKey>,
        #[source]
        #[allow(missing_docs)]
        source: kube::core::request::Error,
    },
}

/// A request with its body as bytes.
pub type Sent = Request<Vec<u8>>;

fn row(key: &ObjectKey) -> Result<&'static KindRow, RequestError> {
    kinds::find(key).ok_or_else(|| RequestError::UnknownKind { key: Box::new(key.clone()) })
}

fn build(
    key: &ObjectKey,
    request: impl FnOnce(kube::core::Request) -> Result<Sent, kube::core::request::Error>,
) -> Result<Sent, RequestError> {
    let url = row(key)?.url(key.namespace.as_deref());
    request(kube::core::Request::new(url))
        .map_err(|source| RequestError::Build { key: Box::new(key.clone()), source })
}

/// Server-side apply of a whole object, if the precondition holds.
pub fn apply(mut body: Value, precondition: &Precondition) -> Result<Sent, RequestError> {
    let key = ObjectKey::of(&body).ok_or(RequestError::NotAnObject)?;
    let metadata =
        body.get_mut("metadata").and_then(Value::as_object_mut).ok_or(RequestError::NotAnObject)?;
    match precondition {
        Precondition::Absent => {
            metadata.insert("resourceVersion".into(), json!(NEVER_STORED));
        }
        Precondition::Unchanged { uid, resource_version } => {
            metadata.insert("uid".into(), json!(uid));
            metadata.insert("resourceVersion".into(), json!(resource_version));
        }
    }
    patch_apply(&key, &body)
}

/// Server-side apply of a whole object, whatever is there: for content that its name determines.
pub fn overwrite(body: Value) -> Result<Sent, RequestError> {
    let key = ObjectKey::of(&body).ok_or(RequestError::NotAnObject)?;
    patch_apply(&key, &body)
}

fn patch_apply(key: &ObjectKey, body: &Value) -> Result<Sent, RequestError> {
    build(key, |request| {
        request.patch(&key.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(body))
    })
}

/// What an apply can't do: entries that somebody else has put into our lists stay theirs. Replaces
/// those parts of an object as it was just stored; none when it is what the manifest says.
pub fn restore(manifest: &Value, stored: &Value) -> Result<Option<Sent>, RequestError> {
    let key = ObjectKey::of(manifest).ok_or(RequestError::NotAnObject)?;
    let version = &stored["metadata"]["resourceVersion"];
    let mut patch = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    for (field, wanted) in manifest.as_object().into_iter().flatten() {
        let ours = !["apiVersion", "kind", "metadata", "status"].contains(&field.as_str());
        if ours && !is_subset(&json!({ field: wanted }), stored) {
            patch.push(json!({"op": "add", "path": format!("/{field}"), "value": wanted}));
        }
    }
    if patch.len() == 1 {
        return Ok(None);
    }
    let url = row(&key)?.url(key.namespace.as_deref());
    let request = Request::patch(format!("{url}/{}?fieldManager={FIELD_MANAGER}", key.name))
        .header("Content-Type", "application/json-patch+json")
        .body(Value::Array(patch).to_string().into_bytes())
        .expect("a key makes a URL");
    Ok(Some(request))
}

/// Where an object isn't what its manifest says, as a JSON pointer.
pub fn difference(manifest: &Value, stored: &Value) -> Option<String> {
    if is_subset(manifest, stored) {
        return None;
    }
    let inner = |name: String, wanted: &Value, found: Option<&Value>| {
        let rest = difference(wanted, found.unwrap_or(&Value::Null))?;
        Some(format!("/{name}{rest}"))
    };
    let deeper = match (manifest, stored) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().find_map(|(name, wanted)| inner(name.clone(), wanted, found.get(name)))
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            wanted.iter().zip(found).enumerate().find_map(|(i, (w, f))| inner(i.to_string(), w, Some(f)))
        }
        _ => None,
    };
    Some(deeper.unwrap_or_default())
}

/// Reads an object.
pub fn get(key: &ObjectKey) -> Result<Sent, RequestError> {
    build(key, |request| request.get(&key.name, &Default::default()))
}

/// Lists the metadata of all objects at a URL of ours.
pub fn list_metadata(url: &str) -> Sent {
    kube::core::Request::new(url)
        .list_metadata(&ListParams::default())
        .expect("names of namespaces and kinds make a URL")
}

/// Lists the metadata of objects at a URL of ours, so many of them, from where the last page has ended.
pub fn list_page(url: &str, limit: u32, next: Option<&str>) -> Sent {
    let mut params = ListParams::default().limit(limit);
    params.continue_token = next.map(str::to_owned);
    kube::core::Request::new(url).list_metadata(&params).expect("names of kinds make a URL")
}

/// One object of a kind of ours, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// Writes an object of ours as it is, if it is the one that was seen, as it was seen. Its status is patched with
/// nothing: that stores the whole object anew and asks no webhook, which might refuse it for what an earlier release
/// has let in.
pub fn rewrite(url: &str, plural: &str, object: &Seen) -> Sent {
    let Seen { namespace, name, uid, resource_version } = object;
    let body = json!({"metadata": {"uid": uid, "resourceVersion": resource_version}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    kube::core::Request::new(format!("{url}/namespaces/{namespace}/{plural}"))
        .patch_subresource("status", name, &params, &Patch::Merge(&body))
        .expect("names of objects make a URL")
}

/// Lets a CRD forget that objects were stored as any other version, if it is the one that was seen, as it was seen.
pub fn set_stored_version(
    key: &ObjectKey,
    uid: &str,
    resource_version: &str,
    version: &str,
) -> Result<Sent, RequestError> {
    set_status(key, uid, resource_version, &json!({"storedVersions": [version]}))
}

/// Deletes an object, if it is the one that was seen, as it was seen. Its dependents go after it.
pub fn delete(key: &ObjectKey, uid: &str, resource_version: &str) -> Result<Sent, RequestError> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: Some(resource_version.to_owned()),
        }),
        ..DeleteParams::default()
    };
    build(key, |request| request.delete(&key.name, &params))
}

/// Sets the finalizers of an object, if it is the one that was seen, as it was seen.
pub fn set_finalizers(
    key: &ObjectKey,
    uid: &str,
    resource_version: &str,
    finalizers: &[String],
) -> Result<Sent, RequestError> {
    let body = json!({
        "metadata": {"uid": uid, "resourceVersion": resource_version, "finalizers": finalizers},
    });
    merge(key, &body)
}

/// Removes labels and annotations from a node, if it is the one that was seen, as it was seen.
pub fn clean_node(
    name: &str,
    uid: &str,
    resource_version: &str,
    labels: &[String],
    annotations: &[String],
) -> Result<Sent, RequestError> {
    let nulls =
        |names: &[String]| names.iter().map(|name| (name.clone(), Value::Null)).collect::<Map<_, _>>();
    let body = json!({
        "metadata": {
            "uid": uid,
            "resourceVersion": resource_version,
            "labels": nulls(labels),
            "annotations": nulls(annotations),
        },
    });
    merge(&ObjectKey::cluster("v1", NODE, name), &body)
}

/// Merges a new status into an object, if it is the one that was seen, as it was seen.
pub fn set_status(
    key: &ObjectKey,
    uid: &str,
    resource_version: &str,
    status: &Value,
) -> Result<Sent, RequestError> {
    let body = json!({"metadata": {"uid": uid, "resourceVersion": resource_version}, "status": status});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    build(key, |request| request.patch_subresource("status", &key.name, &params, &Patch::Merge(&body)))
}

fn merge(key: &ObjectKey, body: &Value) -> Result<Sent, RequestError> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    build(key, |request| request.patch(&key.name, &params, &Patch::Merge(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(request: &Sent) -> (String, String, Value) {
        let body = if request.body().is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(request.body()).unwrap()
        };
        (request.method().to_string(), request.uri().to_string(), body)
    }

    fn unchanged() -> Precondition {
        Precondition::Unchanged { uid: "u".into(), resource_version: "7".into() }
    }

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "virt-api", "namespace": "kubevirt"}})
    }

    #[test]
    fn an_apply_owns_what_it_says_and_carries_its_precondition() {
        let request = apply(service(), &unchanged()).unwrap();
        assert_eq!(request.headers()["content-type"], "application/apply-patch+yaml");
        let (method, uri, body) = told(&request);
        assert_eq!(method, "PATCH");
        assert_eq!(
            uri,
            "/api/v1/namespaces/kubevirt/services/virt-api?&force=true&fieldManager=virt-operator"
        );
        assert_eq!(
            body["metadata"],
            json!({"name": "virt-api", "namespace": "kubevirt", "uid": "u", "resourceVersion": "7"})
        );
    }

    #[test]
    fn a_create_is_an_apply_that_only_an_absent_object_takes() {
        let (.., body) = told(&apply(service(), &Precondition::Absent).unwrap());
        assert_eq!(body["metadata"]["resourceVersion"], NEVER_STORED);
        assert!(body["metadata"].get("uid").is_none());
    }

    #[test]
    fn a_delete_names_the_object_that_was_seen() {
        let key = ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "kubevirt-old");
        let (method, uri, body) = told(&delete(&key, "u", "7").unwrap());
        assert_eq!(method, "DELETE");
        assert_eq!(uri, "/apis/rbac.authorization.k8s.io/v1/clusterroles/kubevirt-old?");
        assert_eq!(body["preconditions"], json!({"uid": "u", "resourceVersion": "7"}));
        assert_eq!(body["propagationPolicy"], "Background");
    }

    #[test]
    fn metadata_is_merged_into_the_object_that_was_seen() {
        let kubevirt = ObjectKey::namespaced("kubevirt.io/v1", "KubeVirt", "kubevirt", "kubevirt");
        let (method, uri, body) = told(&set_finalizers(&kubevirt, "u", "7", &["f".into()]).unwrap());
        assert_eq!(method, "PATCH");
        assert_eq!(
            uri,
            "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt?&fieldManager=virt-operator"
        );
        assert_eq!(body, json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": ["f"]}}));
        let (_, uri, body) =
            told(&clean_node("n", "u", "7", &["kubevirt.io/schedulable".into()], &[]).unwrap());
        assert_eq!(uri, "/api/v1/nodes/n?&fieldManager=virt-operator");
        assert_eq!(body["metadata"]["labels"], json!({"kubevirt.io/schedulable": null}));
        let (_, uri, body) = told(&set_status(&kubevirt, "u", "7", &json!({"phase": "Deployed"})).unwrap());
        assert!(
            uri.starts_with("/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt/status?"),
            "{uri}"
        );
        assert_eq!(body["status"]["phase"], "Deployed");
    }

    #[test]
    fn a_rewrite_says_nothing_but_which_object_was_seen() {
        let page = list_page("/apis/kubevirt.io/v1/virtualmachines", 500, Some("t"));
        assert_eq!(page.uri().to_string(), "/apis/kubevirt.io/v1/virtualmachines?&limit=500&continue=t");
        let seen =
            Seen { namespace: "ns".into(), name: "a".into(), uid: "u".into(), resource_version: "7".into() };
        let request = rewrite("/apis/kubevirt.io/v1", "virtualmachines", &seen);
        assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
        let (method, uri, body) = told(&request);
        assert_eq!(method, "PATCH");
        assert_eq!(
            uri,
            "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/a/status?&fieldManager=virt-operator"
        );
        assert_eq!(body, json!({"metadata": {"uid": "u", "resourceVersion": "7"}}));
    }

    #[test]
    fn what_others_put_into_our_lists_is_taken_out() {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "virt-api", "namespace": "kubevirt"},
            "spec": {"ports": [{"port": 443}], "selector": {"a": "b"}},
        });
        let mut stored = manifest.clone();
        stored["metadata"]["resourceVersion"] = json!("7");
        stored["spec"]["clusterIP"] = json!("10.0.0.1");
        assert!(restore(&manifest, &stored).unwrap().is_none());
        assert_eq!(difference(&manifest, &stored), None);
        stored["spec"]["ports"] = json!([{"port": 443}, {"port": 80}]);
        assert_eq!(difference(&manifest, &stored).as_deref(), Some("/spec/ports"));
        let request = restore(&manifest, &stored).unwrap().unwrap();
        assert_eq!(request.headers()["content-type"], "application/json-patch+json");
        let (.., body) = told(&request);
        assert_eq!(
            body,
            json!([
                {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/spec", "value": manifest["spec"]},
            ])
        );
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let body = json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a"}});
        let error = apply(body, &Precondition::Absent).unwrap_err();
        assert_eq!(error.to_string(), "Foo a: this virt-operator doesn't know example.com/v1 Foo");
    }
}
