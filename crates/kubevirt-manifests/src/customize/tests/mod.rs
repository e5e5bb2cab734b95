//! What the tests share: configs with a customization in them, and what came of it.

mod applied;
mod chance;
mod refused;

use kubevirt_types::Release;
use kubevirt_types::kubevirt::CustomizeComponents;
use serde_json::json;

use super::*;

const SPEC: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";

fn config(customize: Value) -> InstallConfig {
    let customize: CustomizeComponents = serde_json::from_value(customize).unwrap();
    InstallConfig { customize_components: Some(customize), ..InstallConfig::of(Release::V0_18_0) }
}

fn patches(type_: &str, kind: &str, name: &str, patch: &str) -> Value {
    json!({"patches": [{"type": type_, "resourceType": kind, "resourceName": name, "patch": patch}]})
}

/// A workload with one patch in it.
fn patched(type_: &str, kind: &str, name: &str, patch: &str) -> Value {
    let config = config(patches(type_, kind, name, patch));
    let objects = workloads(&config).unwrap_or_else(|refusals| panic!("{refusals:#?}"));
    find(&objects, name)
}

fn find(objects: &[Value], name: &str) -> Value {
    let is =
        |object: &&Value| object["metadata"]["name"] == *name && object["spec"].get("template").is_some();
    objects.iter().find(is).unwrap().clone()
}

fn original(name: &str) -> Value {
    find(&workloads::workloads(&InstallConfig::of(Release::V0_18_0)), name)
}

fn refusals(customize: Value) -> Vec<String> {
    check(&config(customize)).unwrap_err().iter().map(ToString::to_string).collect()
}

/// Where a value is to be found in a patched object, and what it is there; null where it is to be gone.
fn assert_has(object: &Value, wanted: &[(&str, Value)]) {
    for (pointer, value) in wanted {
        let found = object.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(found, value, "{pointer}");
    }
}
