//! Random patches: whatever is accepted leaves alone what is protected.

use kubevirt_types::Release;
use proptest::prelude::{Just, Strategy as _, any, prop};
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{prop_assert, prop_assert_eq, prop_oneof};
use serde_json::{Value, json};

use super::{CONTAINER, config, find, original, patches};
use crate::InstallConfig;
use crate::customize::{title, workloads};
use crate::workloads::{VIRT_API, VIRT_CONTROLLER, VIRT_HANDLER};

/// What must be as it was, whatever a patch says: a list of its own, so that a gap in the code's shows.
const AS_IT_WAS: [&str; 14] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/labels/kubevirt.io",
    "/spec/selector",
    "/spec/strategy",
    "/spec/updateStrategy",
    "/spec/minReadySeconds",
    "/spec/paused",
    "/spec/template/metadata/labels/kubevirt.io",
    "/spec/template/metadata/labels/kubevirt.io~1version",
    "/spec/template/spec/serviceAccountName",
    "/spec/template/spec/containers/0/env/0",
];

/// Every place in an object.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    };
    for (name, value) in children {
        places(value, &format!("{at}/{name}"), found);
    }
}

/// A merge patch that puts a value at a place; lists are gone through by their first element's key.
fn merge_at(object: &Value, place: &str, value: Value) -> Value {
    let mut here = object.clone();
    let mut steps = Vec::new();
    for step in place.split('/').skip(1) {
        let next = here.pointer(&format!("/{step}")).cloned().unwrap_or(Value::Null);
        steps.push((step.replace("~1", "/").replace("~0", "~"), here));
        here = next;
    }
    steps.into_iter().rev().fold(value, |inner, (step, parent)| match (parent, inner) {
        (Value::Array(list), Value::Object(mut inner)) => {
            let old =
                step.parse::<usize>().ok().and_then(|index| list.get(index).cloned()).unwrap_or_default();
            for key in ["name", "mountPath", "containerPort"] {
                if let Some(id) = old.get(key) {
                    inner.entry(key).or_insert(id.clone());
                }
            }
            json!([inner])
        }
        (Value::Array(_), inner) => json!([inner]),
        (_, inner) => json!({ step: inner }),
    })
}

const CASES: u32 = 1500;

#[test]
fn whatever_is_accepted_protects_what_is_protected() {
    let originals = [VIRT_API, VIRT_CONTROLLER, VIRT_HANDLER].map(|name| (name, original(name)));
    let mut found = Vec::new();
    for (_, object) in &originals {
        places(object, "", &mut found);
    }
    for more in
        ["/spec/minReadySeconds", "/spec/paused", "/spec/template/spec/nodeSelector", "/metadata/annotations"]
    {
        found.push(more.to_owned());
    }
    let value = prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!([])),
        Just(json!({"$patch": "delete"})),
        Just(json!([{"$patch": "replace"}])),
        Just(json!("x")),
        (0..4i64).prop_map(|n| json!(n)),
        any::<bool>().prop_map(|yes| json!(yes)),
        Just(json!({"kubevirt.io": "x", "a": "b"})),
        Just(json!({"a": "b"})),
    ];
    let place = select(found);
    let op = select(vec!["add", "replace", "remove", "copy", "move"]);
    let operation = (op, place.clone(), place.clone(), value.clone())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}));
    let one = (
        select(vec!["json", "merge", "strategic"]),
        select(originals.iter().map(|(name, _)| *name).collect::<Vec<_>>()),
        prop::collection::vec(operation, 1..3),
        place,
        value,
    );
    let accepted = std::cell::Cell::new([0; 3]);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: CASES, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    runner
        .run(&one, |(type_, name, operations, place, value)| {
            let object = &originals.iter().find(|(known, _)| *known == name).unwrap().1;
            let patch = if type_ == "json" { json!(operations) } else { merge_at(object, &place, value) };
            let config = config(patches(type_, "*", name, &patch.to_string()));
            let Ok(objects) = workloads(&config) else { return Ok(()) };
            if find(&objects, name) == *object {
                return Ok(());
            }
            let mut counts = accepted.get();
            counts[["json", "merge", "strategic"].iter().position(|known| *known == type_).unwrap()] += 1;
            accepted.set(counts);
            let patched = find(&objects, name);
            for pointer in AS_IT_WAS {
                prop_assert_eq!(
                    patched.pointer(pointer),
                    object.pointer(pointer),
                    "{} by {}",
                    pointer,
                    patch
                );
            }
            prop_assert!(name != VIRT_API || patched["spec"]["replicas"].as_u64() >= Some(2), "{}", patch);
            prop_assert!(patched.pointer(&format!("{CONTAINER}/readinessProbe")).is_some(), "{}", patch);
            let others = |objects: &[Value]| {
                objects.iter().filter(|object| title(object) != title(&patched)).cloned().collect::<Vec<_>>()
            };
            let plain = workloads::workloads(&InstallConfig::of(Release::V0_18_0));
            prop_assert_eq!(others(&objects), others(&plain));
            Ok(())
        })
        .unwrap();
    let [json, merge, strategic] = accepted.get();
    println!("of {CASES} patches changed something: {json} json, {merge} merge, {strategic} strategic");
    assert!(json > 10 && merge > 10 && strategic > 10, "a test that only sees refusals proves nothing");
}
