//! Where objects come from: the watches of an operator, or the lists of somebody who looks once.

use kube::core::DynamicObject;
use kubevirt_types::ObjectKey;
use serde_json::Value;

use crate::kinds::{CRD, KindRow, NODE, POD};

/// Every object of the table of kinds, as it was seen.
pub trait Source {
    /// All objects of a kind, by namespace and name.
    fn of_kind(&self, kind: &str) -> Vec<Value>;

    /// One object.
    fn get(&self, key: &ObjectKey) -> Option<Value>;

    /// Whether the objects of a kind could be read. Who leads may read everything; a person may not.
    fn may_read(&self, kind: &str) -> bool;
}

/// Thousands of nodes and pods are read in every round, and most of what they say is nobody's business here. Of a CRD
/// the managed fields say when it was changed.
pub fn drop_what_nobody_reads(row: &KindRow, object: &mut DynamicObject) {
    if row.kind != CRD {
        object.metadata.managed_fields = None;
    }
    let read: [(&str, &[&str]); 2] = match row.kind {
        NODE => [("spec", &["taints", "unschedulable"]), ("status", &["conditions"])],
        POD => [
            ("spec", &["nodeName", "affinity"]),
            ("status", &["phase", "conditions", "podIP", "containerStatuses", "initContainerStatuses"]),
        ],
        _ => return,
    };
    for (part, fields) in read {
        if let Some(part) = object.data.get_mut(part).and_then(Value::as_object_mut) {
            part.retain(|field, _| fields.contains(&field.as_str()));
        }
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
