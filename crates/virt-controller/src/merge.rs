//! JSON merge patches (RFC 7386) from what is to what is wanted.

use serde_json::{Map, Value};

/// The patch that makes `to` out of `from`; none when they are equal.
///
/// Fields that neither has are left alone, so a writer never touches what a newer release
/// wrote and this one can't read.
pub fn diff(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return Some(to.clone());
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, wanted) in to {
        if let Some(change) = diff(from.get(key).unwrap_or(&Value::Null), wanted) {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// [`diff`] of two statuses, wrapped as `{"status": ...}`.
pub fn status_patch<S: serde::Serialize>(from: Option<&S>, to: &S) -> Option<Value> {
    let json = |status: &S| serde_json::to_value(status).expect("a status is plain data");
    let from = from.map_or_else(|| Value::Object(Map::new()), json);
    diff(&from, &json(to)).map(|patch| serde_json::json!({ "status": patch }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_changed_is_in_the_patch() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": 1, "y": 2}}), Some(json!({"a": {"y": 2}}))),
            (json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]}))),
            (json!({}), json!({"a": {"x": 1}}), Some(json!({"a": {"x": 1}}))),
        ];
        for (from, to, expected) in cases {
            assert_eq!(diff(&from, &to), expected, "{from} -> {to}");
        }
    }
}
