//! Structural OpenAPI schemas of our kinds, as CRDs carry them, for any release.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use crate::feature::{self, FEATURES, What};
use crate::kubevirt::{KubeVirtSpec, KubeVirtStatus};
use crate::release::Release;
use crate::{migration, vm, vmi};

/// Stands for an object whose fields aren't described here.
pub struct AnyObject;

impl JsonSchema for AnyObject {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AnyObject".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// Stands for an RFC 3339 time.
pub struct DateTime;

impl JsonSchema for DateTime {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DateTime".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

/// Every kind of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    KubeVirt,
    VirtualMachine,
    VirtualMachineInstance,
    VirtualMachineInstanceMigration,
    VirtualMachineInstanceReplicaSet,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::KubeVirt,
        Kind::VirtualMachine,
        Kind::VirtualMachineInstance,
        Kind::VirtualMachineInstanceMigration,
        Kind::VirtualMachineInstanceReplicaSet,
    ];

    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::KubeVirt => "KubeVirt",
            Kind::VirtualMachine => "VirtualMachine",
            Kind::VirtualMachineInstance => "VirtualMachineInstance",
            Kind::VirtualMachineInstanceMigration => "VirtualMachineInstanceMigration",
            Kind::VirtualMachineInstanceReplicaSet => "VirtualMachineInstanceReplicaSet",
        }
    }

    /// The plural name in lower case, as in URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::KubeVirt => "kubevirts",
            Kind::VirtualMachine => "virtualmachines",
            Kind::VirtualMachineInstance => "virtualmachineinstances",
            Kind::VirtualMachineInstanceMigration => "virtualmachineinstancemigrations",
            Kind::VirtualMachineInstanceReplicaSet => "virtualmachineinstancereplicasets",
        }
    }

    /// The kind of a plural name.
    pub fn of_plural(plural: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }

    /// Whether a release has this kind.
    pub fn exists_in(self, release: &Release) -> bool {
        feature::exists(What::Kind(self.plural()), release)
    }

    /// Where a VMI's spec stands in this kind, as a JSON pointer; none where there is none.
    pub fn vmi_spec_pointer(self) -> Option<&'static str> {
        match self {
            Kind::VirtualMachineInstance => Some("/spec"),
            Kind::VirtualMachine | Kind::VirtualMachineInstanceReplicaSet => Some("/spec/template/spec"),
            Kind::KubeVirt | Kind::VirtualMachineInstanceMigration => None,
        }
    }
}

/// The structural schema (`openAPIV3Schema`) of a kind as a release has it.
pub fn structural(kind: Kind, release: &Release) -> Value {
    let (spec, status) = match kind {
        Kind::KubeVirt => (of::<KubeVirtSpec>(), of::<KubeVirtStatus>()),
        Kind::VirtualMachine => (of::<vm::VirtualMachineSpec>(), of::<vm::VirtualMachineStatus>()),
        Kind::VirtualMachineInstance => {
            (of::<vmi::VirtualMachineInstanceSpec>(), of::<vmi::VirtualMachineInstanceStatus>())
        }
        Kind::VirtualMachineInstanceMigration => (
            of::<migration::VirtualMachineInstanceMigrationSpec>(),
            of::<migration::VirtualMachineInstanceMigrationStatus>(),
        ),
        Kind::VirtualMachineInstanceReplicaSet => (
            of::<vm::VirtualMachineInstanceReplicaSetSpec>(),
            of::<vm::VirtualMachineInstanceReplicaSetStatus>(),
        ),
    };
    let mut schema = json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    });
    if let Some(pointer) = kind.vmi_spec_pointer() {
        let pointer = pointer.replace('/', "/properties/");
        for feature in FEATURES.iter().filter(|feature| !feature.exists_in(release)) {
            if let What::VmiSpecField(path) = feature.what {
                remove_field(&mut schema, &pointer, path);
            }
        }
    }
    schema
}

/// Removes the property at `path` (dotted) below the schema at `pointer`.
fn remove_field(schema: &mut Value, pointer: &str, path: &str) {
    let (parents, field) = path.rsplit_once('.').map_or(("", path), |(parents, field)| (parents, field));
    let mut at = pointer.to_owned();
    for parent in parents.split('.').filter(|p| !p.is_empty()) {
        at.push_str("/properties/");
        at.push_str(parent);
    }
    let parent =
        schema.pointer_mut(&at).and_then(Value::as_object_mut).expect("the table names a real field");
    if let Some(properties) = parent.get_mut("properties").and_then(Value::as_object_mut) {
        properties.shift_remove(field).expect("the table names a real field");
    }
    if let Some(required) = parent.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name != field);
    }
}

/// A type's schema with everything that a CRD may not hold rewritten.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    rewrite(&mut schema);
    schema
}

/// Rewrites one schema and all below it.
fn rewrite(schema: &mut Value) {
    let Value::Object(map) = schema else {
        // `true` allows anything
        *schema = json!({"x-kubernetes-preserve-unknown-fields": true});
        return;
    };
    map.shift_remove("title");
    map.shift_remove("default");
    if map.get("description").and_then(Value::as_str).is_some_and(str::is_empty) {
        map.shift_remove("description");
    }
    drop_null(map);
    enum_of_consts(map);
    if let Some(format) = map.get("format").and_then(Value::as_str)
        && format.starts_with("uint")
    {
        let wider = if format == "uint64" || format == "uint" { "int64" } else { "int32" };
        map.insert("format".into(), json!(wider));
        map.insert("minimum".into(), json!(0));
    }
    if map.get("x-kubernetes-int-or-string").is_some() {
        return;
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(rewrite);
    }
    for inner in ["items", "additionalProperties"] {
        match map.get_mut(inner) {
            Some(Value::Bool(_)) => {
                map.shift_remove(inner);
            }
            Some(schema) => rewrite(schema),
            None => {}
        }
    }
}

/// `Option<T>`: CRDs leave a missing value out and know no null type.
fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
    if map.contains_key("x-kubernetes-int-or-string") {
        if let Some(Value::Array(options)) = map.get_mut("anyOf") {
            options.retain(|o| o.get("type") != Some(&json!("null")));
        }
        return;
    }
    if let Some(Value::Array(options)) = map.get("anyOf") {
        let mut rest: Vec<Value> =
            options.iter().filter(|o| o.get("type") != Some(&json!("null"))).cloned().collect();
        if rest.len() == 1
            && let Some(Value::Object(inner)) = rest.pop()
        {
            map.shift_remove("anyOf");
            for (key, value) in inner {
                map.entry(key).or_insert(value);
            }
            drop_null(map);
        }
    }
}

/// An enum whose variants have docs comes as `oneOf` of constants; a CRD wants `enum`.
fn enum_of_consts(map: &mut Map<String, Value>) {
    let Some(Value::Array(options)) = map.get("oneOf") else { return };
    let mut values = Vec::new();
    for option in options {
        match (option.get("const"), option.get("enum").and_then(Value::as_array)) {
            (Some(value), _) => values.push(value.clone()),
            (None, Some(several)) => values.extend(several.iter().cloned()),
            (None, None) => return,
        }
    }
    map.shift_remove("oneOf");
    map.insert("type".into(), json!("string"));
    map.insert("enum".into(), Value::Array(values));
}

/// The paths below `object` that `schema` doesn't know, such as `spec.template.spec.foo`.
///
/// The API server would drop such fields silently; an admission webhook of the schema's release
/// refuses them instead, so that nobody believes to have asked for something.
pub fn unknown_fields(schema: &Value, object: &Value, at: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    collect_unknown(schema, object, at, &mut unknown);
    unknown
}

fn collect_unknown(schema: &Value, object: &Value, at: &str, unknown: &mut Vec<String>) {
    match object {
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let additional = schema.get("additionalProperties");
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match (properties.and_then(|p| p.get(name)), additional) {
                    (Some(inner), _) | (None, Some(inner)) => collect_unknown(inner, value, &path, unknown),
                    (None, None) if open || properties.is_none() => {}
                    (None, None) => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    collect_unknown(inner, item, &format!("{at}[{index}]"), unknown);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server demands of a structural schema, on every node.
    fn assert_structural(schema: &Value, at: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}"));
        let int_or_string = map.contains_key("x-kubernetes-int-or-string");
        let open = map.contains_key("x-kubernetes-preserve-unknown-fields");
        assert!(int_or_string || open || map.get("type").is_some_and(Value::is_string), "{at}: {schema}");
        for forbidden in ["$ref", "$schema", "oneOf", "const", "definitions", "$defs", "default"] {
            assert!(!map.contains_key(forbidden), "{at} has {forbidden}");
        }
        assert!(int_or_string || !map.contains_key("anyOf"), "{at} has anyOf: {schema}");
        if let Some(properties) = map.get("properties").and_then(Value::as_object) {
            properties.iter().for_each(|(name, inner)| assert_structural(inner, &format!("{at}.{name}")));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = map.get(inner) {
                assert_structural(schema, &format!("{at}.{inner}"));
            }
        }
    }

    #[test]
    fn every_schema_is_structural() {
        for release in Release::ALL {
            for kind in Kind::ALL {
                assert_structural(&structural(kind, &release), kind.name());
            }
        }
    }

    #[test]
    fn a_field_exists_since_its_release() {
        for (kind, pointer) in [
            (Kind::VirtualMachineInstance, "/properties/spec/properties/evictionStrategy"),
            (
                Kind::VirtualMachine,
                "/properties/spec/properties/template/properties/spec/properties/evictionStrategy",
            ),
        ] {
            assert!(structural(kind, &Release::V0_17_0).pointer(pointer).is_none());
            assert!(structural(kind, &Release::V0_18_0).pointer(pointer).is_some());
        }
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let schema = structural(Kind::VirtualMachine, &Release::V0_17_0);
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"evictionStrategy": "LiveMigrate", "domain": {"devices": {"disks": [{"name": "a", "floppy": {}}]}, "nope": 1}}}}
        });
        assert_eq!(
            unknown_fields(&schema, &object, ""),
            ["spec.template.spec.evictionStrategy", "spec.template.spec.domain.nope"]
        );
    }
}
