//! Where objects come from: the watches of an operator, or the lists of somebody who looks once.

use kube::core::DynamicObject;
use kubevirt_types::ObjectKey;
use serde_json::Value;

use crate::kinds::{CRD, KindRow};

/// Every object of the table of kinds, as it was seen.
pub trait Source {
    /// All objects of a kind, by namespace and name.
    fn of_kind(&self, kind: &str) -> Vec<Value>;

    /// One object.
    fn get(&self, key: &ObjectKey) -> Option<Value>;

    /// Whether the objects of a kind could be read. Who leads may read everything; a person may not.
    fn may_read(&self, kind: &str) -> bool;
}

/// Managed fields and a node's list of images are most of an object's size. Of a CRD they say when it was changed.
pub fn drop_what_nobody_reads(row: &KindRow, object: &mut DynamicObject) {
    if row.kind != CRD {
        object.metadata.managed_fields = None;
    }
    if let Some(status) = object.data.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("images");
    }
}

/// Objects of a list don't carry their own kind; ours always do.
pub fn with_type(row: &KindRow, object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).expect("what came as JSON goes as JSON");
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), row.api_version.into());
        map.insert("kind".into(), row.kind.into());
    }
    value
}
