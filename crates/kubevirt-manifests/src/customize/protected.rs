//! What a patch may never change, because our own code counts on it.

use kubevirt_types::labels;
use serde_json::{Map, Value};

use crate::workloads::VIRT_API;

/// A change that is refused.
#[derive(Debug, PartialEq)]
pub(super) struct Change<'a> {
    /// The field.
    pub path: String,
    /// What it would be; none when it would be gone.
    pub value: Option<&'a Value>,
    /// Why not, and what is allowed.
    pub rule: &'static str,
}

/// The maps of a workload in which a patch may change only some fields: where, which, and what is said of the others.
const MAPS: [(&str, &[&str], &str); 5] = [
    ("", &["metadata", "spec"], "a patch may change metadata and spec"),
    ("/metadata", &["labels", "annotations"], "a patch may change metadata.labels and metadata.annotations"),
    (
        "/spec",
        &["template", "replicas", "revisionHistoryLimit"],
        "how pods are found and replaced is the update's business; a patch may change spec.template, spec.replicas and \
         spec.revisionHistoryLimit",
    ),
    ("/spec/template", &["metadata", "spec"], "a patch may change its metadata and spec"),
    (
        "/spec/template/metadata",
        &["labels", "annotations"],
        "a patch may change the labels and annotations of pods",
    ),
];

/// Fields of a pod's spec that stay as they are.
const POD_FIELDS: [(&str, &str); 4] = [
    ("serviceAccountName", ACCOUNT_RULE),
    ("serviceAccount", ACCOUNT_RULE),
    ("restartPolicy", "these pods are always restarted"),
    ("activeDeadlineSeconds", "these pods run for ever"),
];
const ACCOUNT_RULE: &str = "what a component may do is the release's business";

/// Where labels and annotations are.
const NAMED: [&str; 4] = [
    "/metadata/labels",
    "/metadata/annotations",
    "/spec/template/metadata/labels",
    "/spec/template/metadata/annotations",
];
const NAMED_RULE: &str = "labels and annotations of kubevirt.io, of app.kubernetes.io/managed-by and component, and of \
     the Deployment's and DaemonSet's own controllers are not the user's; a patch may add others";

/// Variables of the component's container that come from the pod's own fields.
const VARIABLES: [&str; 5] = ["POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP", "NODE_NAME"];

/// The first change that is refused.
pub(super) fn change<'a>(before: &Value, after: &'a Value) -> Option<Change<'a>> {
    let name = before["metadata"]["name"].as_str().unwrap_or_default();
    maps(before, after)
        .or_else(|| named(before, after))
        .or_else(|| pod(before, after))
        .or_else(|| replicas(name, after))
        .or_else(|| container(name, before, after))
}

fn dotted(pointer: &str, field: &str) -> String {
    format!("{pointer}/{field}").trim_start_matches('/').replace('/', ".")
}

fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

fn maps<'a>(before: &Value, after: &'a Value) -> Option<Change<'a>> {
    MAPS.iter().find_map(|(pointer, open, rule)| {
        let Some(new) = map(after, pointer) else {
            let (path, value) = (pointer.trim_start_matches('/').replace('/', "."), after.pointer(pointer));
            return map(before, pointer).map(|_| Change { path, value, rule });
        };
        first_difference(map(before, pointer), Some(new), |field| !open.contains(&field))
            .map(|(field, value)| Change { path: dotted(pointer, field), value, rule })
    })
}

/// The first field of those that count in which two maps differ, with its new value.
fn first_difference<'a: 'c, 'b: 'c, 'c>(
    before: Option<&'b Map<String, Value>>,
    after: Option<&'a Map<String, Value>>,
    counts: impl Fn(&str) -> bool,
) -> Option<(&'c str, Option<&'a Value>)> {
    let old = |field: &str| before.and_then(|map| map.get(field));
    let new = |field: &str| after.and_then(|map| map.get(field));
    let fields = before.into_iter().flat_map(Map::keys).map(|field| -> &'c str { field });
    let more = after.into_iter().flat_map(Map::keys).map(|field| -> &'c str { field });
    fields
        .chain(more)
        .filter(|field| counts(field))
        .find(|field| old(field) != new(field))
        .map(|field| (field, new(field)))
}

/// Whether a label or annotation is ours, or of the controllers that make our pods.
fn is_reserved(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    domain == labels::APP
        || domain.ends_with(".kubevirt.io")
        || domain == "deployment.kubernetes.io"
        || [labels::MANAGED_BY, labels::APP_COMPONENT, "deprecated.daemonset.template.generation"]
            .contains(&name)
}

fn named<'a>(before: &Value, after: &'a Value) -> Option<Change<'a>> {
    NAMED.iter().find_map(|pointer| {
        first_difference(map(before, pointer), map(after, pointer), is_reserved).map(|(name, value)| Change {
            path: dotted(pointer, "") + name,
            value,
            rule: NAMED_RULE,
        })
    })
}

fn pod<'a>(before: &Value, after: &'a Value) -> Option<Change<'a>> {
    const SPEC: &str = "/spec/template/spec";
    POD_FIELDS.iter().find_map(|(field, rule)| {
        let (old, new) = (map(before, SPEC)?.get(*field), map(after, SPEC).and_then(|spec| spec.get(*field)));
        (old != new).then(|| Change { path: dotted(SPEC, field), value: new, rule })
    })
}

/// A Deployment's replicas; a DaemonSet has none, which its type says.
fn replicas<'a>(name: &str, after: &'a Value) -> Option<Change<'a>> {
    if after["kind"] != "Deployment" {
        return None;
    }
    let (least, rule) = match name {
        VIRT_API => (2, "one stops while the other serves: expected at least 2"),
        _ => (1, "somebody has to lead: expected at least 1"),
    };
    let value = after.pointer("/spec/replicas");
    let enough = value.and_then(Value::as_i64).is_some_and(|replicas| replicas >= least);
    (!enough).then(|| Change { path: "spec.replicas".to_owned(), value, rule })
}

/// The component's own container has to stay, ready only when it says so, and to know who it is.
fn container<'a>(name: &str, before: &Value, after: &'a Value) -> Option<Change<'a>> {
    const PATH: &str = "spec.template.spec.containers";
    let Some(new) = own_container(name, after) else {
        let rule = "the container of the component's name has to stay the first; a patch may change it and append others";
        return Some(Change {
            path: PATH.to_owned(),
            value: after.pointer("/spec/template/spec/containers"),
            rule,
        });
    };
    if !new.get("readinessProbe").is_some_and(Value::is_object) {
        let (path, value) = (format!("{PATH}[{name}].readinessProbe"), new.get("readinessProbe"));
        let rule = "an update waits for it: a patch may change it, not take it away";
        return Some(Change { path, value, rule });
    }
    let old = own_container(name, before)?;
    VARIABLES.iter().find_map(|variable| {
        let value = variable_of(new, variable);
        (variable_of(old, variable) != value).then(|| Change {
            path: format!("{PATH}[{name}].env[{variable}]"),
            value,
            rule: "it says which pod this is; a patch may add other variables",
        })
    })
}

fn own_container<'a>(name: &str, object: &'a Value) -> Option<&'a Value> {
    object.pointer("/spec/template/spec/containers/0").filter(|first| first["name"] == name)
}

fn variable_of<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container.get("env")?.as_array()?.iter().find(|one| one["name"] == name)
}
