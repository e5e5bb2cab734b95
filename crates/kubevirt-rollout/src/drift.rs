//! Whether a live object is what its manifest says.
//!
//! A manifest is a subset of its live object: the API server adds defaults, status and bookkeeping. What was
//! taken away from a manifest is seen by its hash annotation, which is part of the manifest.

use kubevirt_types::Quantity;
use serde_json::{Map, Number, Value};

/// Whether everything in `manifest` is in `live`. Maps may have more; lists must match element by element.
pub fn is_subset(manifest: &Value, live: &Value) -> bool {
    match (manifest, live) {
        (Value::Object(manifest), Value::Object(live)) => manifest
            .iter()
            .all(|(name, wanted)| live.get(name).map_or(is_zero(wanted), |found| is_subset(wanted, found))),
        (Value::Array(manifest), Value::Array(live)) => {
            manifest.len() == live.len() && manifest.iter().zip(live).all(|(m, l)| is_subset(m, l))
        }
        (Value::Number(manifest), Value::Number(live)) => same_number(manifest, live),
        (Value::String(manifest), Value::String(live)) => manifest == live || same_quantity(manifest, live),
        (manifest, live) => manifest == live || (is_zero(manifest) && is_zero(live)),
    }
}

/// What the API server leaves out when it writes an object.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    a == b || a.as_f64() == b.as_f64()
}

/// The API server rewrites quantities: 1000m comes back as 1.
fn same_quantity(a: &str, b: &str) -> bool {
    let starts_as_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    starts_as_number(a)
        && starts_as_number(b)
        && matches!((Quantity(a.to_owned()).millis(), Quantity(b.to_owned()).millis()), (Ok(a), Ok(b)) if a == b)
}

/// The parts of a live object that a manifest may have: without what the API server keeps itself.
pub(crate) fn as_manifest(live: &Value) -> Value {
    let mut object = live.clone();
    if let Some(object) = object.as_object_mut() {
        object.shift_remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            let kept: Map<String, Value> = ["name", "namespace", "labels", "annotations"]
                .into_iter()
                .filter_map(|field| Some((field.to_owned(), metadata.get(field)?.clone())))
                .collect();
            *metadata = kept;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn table() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), true),
            (json!({"a": 1}), json!({"b": 2}), false),
            (json!({"a": [1, 2]}), json!({"a": [1, 2, 3]}), false),
            (json!({"a": [{"x": 1}]}), json!({"a": [{"x": 1, "defaulted": true}]}), true),
            (json!({"a": {}, "b": [], "c": null, "d": false, "e": 0, "f": ""}), json!({}), true),
            (json!({"a": false}), json!({"a": true}), false),
            (json!({"a": {"b": {}}}), json!({}), true),
            (json!({"a": 1.0}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"cpu": "1000m"}), json!({"cpu": "1"}), true),
            (json!({"cpu": "10m"}), json!({"cpu": "20m"}), false),
            (json!({"v": "v1"}), json!({"v": "v2"}), false),
        ];
        for (manifest, live, want) in cases {
            assert_eq!(is_subset(&manifest, &live), want, "{manifest} in {live}");
        }
    }

    #[test]
    fn a_live_object_becomes_a_manifest_again() {
        let live = json!({
            "apiVersion": "v1", "kind": "X",
            "metadata": {"name": "x", "uid": "1", "resourceVersion": "2", "managedFields": [], "labels": {"a": "b"}},
            "spec": {"a": 1}, "status": {"b": 2},
        });
        let want = json!({
            "apiVersion": "v1", "kind": "X",
            "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"a": 1},
        });
        assert_eq!(as_manifest(&live), want);
    }
}
