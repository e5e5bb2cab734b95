//! The name and state of a stored object. Pure.

use kubevirt_rollout::observed::Handle;
use kubevirt_types::ObjectKey;
use serde_json::Value;

/// Name and state of a stored object; none of what isn't stored.
pub fn handle(object: &Value) -> Option<Handle> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Some(Handle {
        key: ObjectKey::of(object)?,
        uid: text("/metadata/uid")?,
        resource_version: text("/metadata/resourceVersion")?,
    })
}
