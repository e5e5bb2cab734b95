//! Who controls what: owner references and finalizers, read and written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

/// The reference to an object's controller.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object with this uid is the controller.
pub fn controls(uid: &str, metadata: &ObjectMeta) -> bool {
    !uid.is_empty() && controller_of(metadata).is_some_and(|owner| owner.uid == uid)
}

/// Whether this finalizer is there.
pub fn has_finalizer(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|present| present == finalizer)
}

/// The patch that adds a finalizer; none when it is there.
pub fn add_finalizer(metadata: &ObjectMeta, finalizer: &str) -> Option<Value> {
    if has_finalizer(metadata, finalizer) {
        return None;
    }
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(finalizer.to_owned());
    Some(json!({ "metadata": { "finalizers": finalizers } }))
}

/// The patch that removes finalizers; none when none of them is there.
pub fn remove_finalizers(metadata: &ObjectMeta, unwanted: &[&str]) -> Option<Value> {
    let present = metadata.finalizers.as_ref()?;
    let left: Vec<_> = present.iter().filter(|f| !unwanted.contains(&f.as_str())).collect();
    (left.len() != present.len()).then(|| json!({ "metadata": { "finalizers": left } }))
}

/// Puts the resourceVersion of `metadata` into a patch, which makes it a precondition.
pub fn guarded(mut patch: Value, metadata: &ObjectMeta) -> Value {
    patch["metadata"]["resourceVersion"] = json!(metadata.resource_version);
    patch
}
