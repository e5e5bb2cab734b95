//! Command line flags that a user adds to a component.

use std::collections::BTreeMap;

use kubevirt_types::kubevirt::CustomizeFlags;
use serde_json::{Value, json};

use super::refusal::{Cause, Refusal, shown};
use super::title;
use crate::workloads::{VIRT_API, VIRT_CONTROLLER, VIRT_HANDLER};

/// Appends a workload's flags to the arguments of its component, in the order of their names, as `--name=value`, or
/// `--name` where the value is empty. Says what it refuses.
pub(super) fn append(flags: &CustomizeFlags, object: &mut Value) -> Vec<Refusal> {
    let workload = title(object);
    let Some((field, flags)) = of(flags, object) else { return vec![] };
    let name = object["metadata"]["name"].clone();
    let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    let container = containers.into_iter().flatten().find(|container| container["name"] == name);
    let Some(container) = container.and_then(Value::as_object_mut) else { return vec![] };
    let args = container.entry("args").or_insert_with(|| json!([]));
    let Some(args) = args.as_array_mut() else { return vec![] };
    let mut refusals = Vec::new();
    for (flag, value) in flags {
        let name = flag.to_ascii_lowercase();
        let refuse = |value: &str, cause| Refusal {
            field: format!("spec.customizeComponents.flags.{field}.{}", shown(flag)),
            value: shown(value),
            cause,
        };
        if !is_flag(&name) {
            refusals.push(refuse(flag, Cause::FlagName));
        } else if args.iter().filter_map(Value::as_str).any(|arg| sets(arg, &name)) {
            refusals.push(refuse(value, Cause::FlagTaken { flag: name, workload: workload.clone() }));
        } else if value.is_empty() {
            args.push(json!(format!("--{name}")));
        } else {
            args.push(json!(format!("--{name}={value}")));
        }
    }
    refusals
}

/// The flags that are for a workload, and their field.
fn of<'a>(flags: &'a CustomizeFlags, object: &Value) -> Option<(&'static str, &'a BTreeMap<String, String>)> {
    let (kind, name) = (object["kind"].as_str()?, object["metadata"]["name"].as_str()?);
    let (field, flags) = match (kind, name) {
        ("Deployment", VIRT_API) => ("api", &flags.api),
        ("Deployment", VIRT_CONTROLLER) => ("controller", &flags.controller),
        ("DaemonSet", VIRT_HANDLER) => ("handler", &flags.handler),
        _ => return None,
    };
    (!flags.is_empty()).then_some((field, flags))
}

fn is_flag(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(allowed)
}

/// Whether an argument is this flag.
fn sets(arg: &str, flag: &str) -> bool {
    let Some(name) = arg.strip_prefix("--") else { return false };
    name.split('=').next() == Some(flag)
}
