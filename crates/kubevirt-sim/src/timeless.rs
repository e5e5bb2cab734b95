//! What an object says of when it was written: two worlds that came to the same end at other times differ in nothing else.

use kubevirt_rollout::observed::PUBLISHED;
use serde_json::Value;

/// Forgets since when the bundle's newest CA is in it.
pub fn timeless(mut object: Value) -> Value {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(PUBLISHED);
    }
    object
}

/// Whether a field says when something was written, and else nothing.
pub(crate) fn is_time(field: &str) -> bool {
    field == PUBLISHED
}
