//! Kubernetes' strategic merge patch, for Deployments and DaemonSets.
//!
//! Maps are merged field by field, null removes a field. A list is replaced as a whole, unless it is in
//! [`MERGE_KEYS`]: then its elements are merged by their key, and new ones are appended. `$patch: delete` removes a map
//! or an element, `$patch: replace` a map's or a list's content. Knows no other directive, and refuses them.

use serde_json::{Map, Value};

/// Lists whose elements are merged one by one, and the field that tells them apart. A field name means the same list
/// wherever it stands in these objects.
pub(super) const MERGE_KEYS: [(&str, &str); 10] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("ports", "containerPort"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
];

/// The one directive.
const DIRECTIVE: &str = "$patch";

/// Why a strategic merge patch can't be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StrategicError {
    #[error("{path}: {directive} is not known: expected $patch: delete, $patch: replace or $patch: merge")]
    Directive { path: String, directive: String },
    #[error("{path}: $patch: replace stands alone in an element of its own")]
    NotAlone { path: String },
    #[error("{path}: elements of this list are told apart by {key}: every one has to have it")]
    NoKey { path: String, key: &'static str },
    #[error("{path}: this list is replaced as a whole: no $patch in it")]
    Atomic { path: String },
    #[error("$patch is for a part of the object, not for all of it")]
    Whole,
}

/// What a map says about itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

/// Merges a patch into an object.
pub(super) fn merge(object: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    let (Some(object), Some(patch)) = (object.as_object_mut(), patch.as_object()) else { return Ok(()) };
    match directive(patch, "")? {
        Directive::Merge => merge_map(object, patch, ""),
        Directive::Replace | Directive::Delete => Err(StrategicError::Whole),
    }
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
) -> Result<(), StrategicError> {
    for (name, wanted) in patch.iter().filter(|(name, _)| *name != DIRECTIVE) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let key = MERGE_KEYS.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (wanted, key) {
            (Value::Null, _) => {
                target.shift_remove(name);
            }
            (Value::Object(wanted), _) => merge_field(target, name, wanted, &path)?,
            (Value::Array(wanted), Some(key)) => {
                let slot = target.entry(name).or_insert(Value::Null);
                let mut list = slot.as_array().cloned().unwrap_or_default();
                merge_list(&mut list, wanted, key, &path)?;
                *slot = Value::Array(list);
            }
            (Value::Array(_), None) if has_directive(wanted) => return Err(StrategicError::Atomic { path }),
            (Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {
                target.insert(name.clone(), wanted.clone());
            }
        }
    }
    Ok(())
}

/// A field that is a map in the patch.
fn merge_field(
    target: &mut Map<String, Value>,
    name: &str,
    wanted: &Map<String, Value>,
    path: &str,
) -> Result<(), StrategicError> {
    let old = match directive(wanted, path)? {
        Directive::Delete => {
            target.shift_remove(name);
            return Ok(());
        }
        Directive::Replace => None,
        Directive::Merge => target.get(name).and_then(Value::as_object).cloned(),
    };
    let mut map = old.unwrap_or_default();
    merge_map(&mut map, wanted, path)?;
    target.insert(name.to_owned(), Value::Object(map));
    Ok(())
}

fn merge_list(
    target: &mut Vec<Value>,
    patch: &[Value],
    key: &'static str,
    path: &str,
) -> Result<(), StrategicError> {
    let mut elements = Vec::new();
    let mut replaced = false;
    for (index, element) in patch.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let map = element.as_object().ok_or_else(|| StrategicError::NoKey { path: path.clone(), key })?;
        match directive(map, &path)? {
            Directive::Replace if map.len() > 1 => return Err(StrategicError::NotAlone { path }),
            Directive::Replace => replaced = true,
            directive @ (Directive::Merge | Directive::Delete) => {
                let id = map.get(key).ok_or_else(|| StrategicError::NoKey { path: path.clone(), key })?;
                elements.push((directive, id, map, path));
            }
        }
    }
    if replaced {
        target.clear();
    }
    for (directive, id, map, path) in elements {
        if directive == Directive::Delete {
            target.retain(|element| element.get(key) != Some(id));
            continue;
        }
        match target.iter_mut().find(|element| element.get(key) == Some(id)).and_then(Value::as_object_mut) {
            Some(old) => merge_map(old, map, &path)?,
            None => {
                let mut new = Map::new();
                merge_map(&mut new, map, &path)?;
                target.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

/// What a map of the patch says about itself; refuses what isn't known.
fn directive(map: &Map<String, Value>, path: &str) -> Result<Directive, StrategicError> {
    let unknown = |directive: String| StrategicError::Directive { path: path.to_owned(), directive };
    if let Some(other) = map.keys().find(|name| name.starts_with('$') && *name != DIRECTIVE) {
        return Err(unknown(other.clone()));
    }
    match map.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(value) => match value.as_str() {
            Some("merge") => Ok(Directive::Merge),
            Some("replace") => Ok(Directive::Replace),
            Some("delete") => Ok(Directive::Delete),
            Some(_) | None => Err(unknown(format!("{DIRECTIVE}: {value}"))),
        },
    }
}

fn has_directive(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| name.starts_with('$') || has_directive(value)),
        Value::Array(list) => list.iter().any(has_directive),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
