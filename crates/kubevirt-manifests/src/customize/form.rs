//! The form of a patched workload: what Kubernetes takes, and one text for one meaning.
//!
//! Two patches that mean the same have to give the same pod template letter by letter, or an edit that changes
//! nothing would roll pods.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::strategic::MERGE_KEYS;

/// Puts what a patch may have left into the form of a manifest: null is not there, a quantity is a text.
pub(super) fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            for (name, value) in map.iter_mut() {
                if let ("limits" | "requests", Value::Object(quantities)) = (name.as_str(), &mut *value) {
                    for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
                        *quantity = Value::String(quantity.to_string());
                    }
                }
                tidy(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Puts every map's fields in one order: first those of the original in its order, then the others by name.
pub(super) fn in_order_of(original: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let place = |name: &str| {
                original.as_object().and_then(|original| original.keys().position(|known| known == name))
            };
            let mut fields: Vec<(String, Value)> = std::mem::take(map).into_iter().collect();
            fields.sort_by_cached_key(|(name, _)| (place(name).unwrap_or(usize::MAX), name.clone()));
            for (name, value) in &mut fields {
                in_order_of(original.get(&*name).unwrap_or(&Value::Null), value);
            }
            map.extend(fields);
        }
        Value::Array(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                in_order_of(original.get(index).unwrap_or(&Value::Null), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What Kubernetes wouldn't take: the field, and what is wrong with it.
pub(super) fn flaw(object: &Value) -> Option<(String, String)> {
    match object["kind"].as_str() {
        Some("DaemonSet") => typed::<DaemonSet>(object),
        Some(_) | None => typed::<Deployment>(object),
    }
    .or_else(|| twice(object, ""))
}

/// What isn't in the type: a value of another type, or a field that it doesn't have.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Option<(String, String)> {
    match serde_path_to_error::deserialize::<_, T>(object) {
        Err(error) => Some((error.path().to_string(), error.inner().to_string())),
        Ok(known) => {
            let known = serde_json::to_value(known).expect("Kubernetes' own types serialize");
            let path = unknown(object, &known, "")?;
            Some((path, "there is no such field".to_owned()))
        }
    }
}

/// The first field that got lost on the way through the type.
fn unknown(given: &Value, known: &Value, path: &str) -> Option<String> {
    match given {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let path = join(path, name);
            match known.get(name) {
                Some(known) => unknown(value, known, &path),
                None => Some(path),
            }
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .find_map(|(index, value)| unknown(value, known.get(index)?, &format!("{path}[{index}]"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The first element that is twice in a list in which the API server tells elements apart.
fn twice(value: &Value, path: &str) -> Option<(String, String)> {
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let path = join(path, name);
            let key = MERGE_KEYS.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
            let list = key.zip(value.as_array());
            list.and_then(|(key, list)| twice_in(list, key, &path)).or_else(|| twice(value, &path))
        }),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(index, value)| twice(value, &format!("{path}[{index}]")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn twice_in(list: &[Value], key: &str, path: &str) -> Option<(String, String)> {
    let mut seen = BTreeSet::new();
    list.iter().enumerate().find_map(|(index, element)| {
        let more = element.get(more_of(key)).map(Value::to_string);
        let id = (element.get(key)?.to_string(), more.unwrap_or_default());
        let shown = id.0.clone();
        (!seen.insert(id)).then(|| (format!("{path}[{index}]"), format!("{key} {shown} is there twice")))
    })
}

/// What tells elements apart beside their key.
fn more_of(key: &str) -> &'static str {
    match key {
        "containerPort" => "protocol",
        "topologyKey" => "whenUnsatisfiable",
        _ => "",
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
