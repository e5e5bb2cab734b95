//! One patch: read at the door, then carried out on the workloads that it selects.

use json_patch::PatchOperation;
use kubevirt_types::kubevirt::{CustomizePatch, PatchType};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusal::{Cause, Refusal, shown};
use super::{CUSTOMIZABLE, form, protected, strategic, title};

/// Everything, where a type or a name is expected.
const ANY: &str = "*";

/// No workload becomes larger: a few operations that copy an object into itself would fill the memory.
const MAX_WORKLOAD: usize = 1 << 20;

/// A patch that could be read and selects a workload.
pub(super) struct Patch<'a> {
    index: usize,
    given: &'a CustomizePatch,
    change: Change,
}

/// What it does.
enum Change {
    /// RFC 6902.
    Json(Vec<PatchOperation>),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
}

/// Whether a resource type or name of a patch means this one, as KubeVirt compares them.
fn means(given: &str, this: &str) -> bool {
    given == ANY || given.eq_ignore_ascii_case(this)
}

impl<'a> Patch<'a> {
    /// Reads a patch.
    pub fn parse(index: usize, given: &'a CustomizePatch) -> Result<Self, Refusal> {
        let refuse = |field: &str, value: &str, cause| Refusal {
            field: field_of(index, field),
            value: shown(value),
            cause,
        };
        let (type_, name) = (given.resource_type.as_str(), given.resource_name.as_str());
        if !CUSTOMIZABLE.iter().any(|(kind, _)| means(type_, kind)) {
            return Err(refuse("resourceType", type_, Cause::Type));
        }
        if !CUSTOMIZABLE.iter().any(|(_, known)| means(name, known)) {
            return Err(refuse("resourceName", name, Cause::Name));
        }
        if !CUSTOMIZABLE.iter().any(|(kind, known)| means(type_, kind) && means(name, known)) {
            return Err(refuse("resourceName", name, Cause::NoSuchWorkload { type_: type_.to_owned() }));
        }
        let unreadable = |expected| {
            move |error: String| {
                refuse("patch", &given.patch, Cause::Unreadable { expected, error: shown(&error) })
            }
        };
        let change = match given.type_.unwrap_or_default() {
            PatchType::Json => Change::Json(read(&given.patch).map_err(unreadable("a list of operations"))?),
            PatchType::Merge => Change::Merge(object(&given.patch).map_err(unreadable("an object"))?),
            PatchType::Strategic => Change::Strategic(object(&given.patch).map_err(unreadable("an object"))?),
        };
        Ok(Self { index, given, change })
    }

    /// Whether it is for this object.
    pub fn selects(&self, object: &Value) -> bool {
        CUSTOMIZABLE.iter().any(|(kind, name)| {
            object["kind"] == *kind
                && object["metadata"]["name"] == *name
                && means(&self.given.resource_type, kind)
                && means(&self.given.resource_name, name)
        })
    }

    /// The object with the patch in it.
    pub fn apply(&self, object: &Value) -> Result<Value, Refusal> {
        let workload = title(object);
        let refuse = |value: String, cause| Refusal { field: field_of(self.index, "patch"), value, cause };
        let mut changed = object.clone();
        let applied = match &self.change {
            Change::Json(operations) => each(operations, &mut changed),
            Change::Merge(patch) => {
                json_patch::merge(&mut changed, patch);
                Ok(())
            }
            Change::Strategic(patch) => {
                strategic::merge(&mut changed, patch).map_err(|error| shown(&error.to_string()))
            }
        };
        applied.map_err(|error| {
            refuse(shown(&self.given.patch), Cause::DoesNotApply { workload: workload.clone(), error })
        })?;
        if let Some(change) = protected::change(object, &changed) {
            let value = change.value.map_or_else(|| "null".to_owned(), |value| shown(&value.to_string()));
            return Err(refuse(
                value,
                Cause::Protected { workload, path: shown(&change.path), rule: change.rule },
            ));
        }
        form::tidy(&mut changed);
        match form::flaw(&changed) {
            None => Ok(changed),
            Some((path, error)) => {
                let cause = Cause::NotAWorkload { workload, path: shown(&path), error: shown(&error) };
                Err(refuse(shown(&self.given.patch), cause))
            }
        }
    }
}

/// Carries out one operation after the other.
fn each(operations: &[PatchOperation], object: &mut Value) -> Result<(), String> {
    for (index, operation) in operations.iter().enumerate() {
        let said = |error: &dyn std::fmt::Display| {
            format!("operation {index} ({}): {error}", shown(&operation.to_string()))
        };
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|error| said(&error.kind))?;
        let copies = matches!(operation, PatchOperation::Copy(_));
        if copies && object.to_string().len() > MAX_WORKLOAD {
            return Err(said(&"the object becomes larger than 1 MiB"));
        }
    }
    Ok(())
}

fn field_of(index: usize, field: &str) -> String {
    format!("spec.customizeComponents.patches[{index}].{field}")
}

/// Reads JSON, or else YAML.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) => serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))?,
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn object(text: &str) -> Result<Value, String> {
    let object: serde_json::Map<String, Value> = read(text)?;
    Ok(Value::Object(object))
}

/// YAML errors quote the text below; the first line says what is wrong and where.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}
