//! Scaling, pausing, failing, and what isn't touched.

use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_types::VirtualMachineInstance;
use serde_json::{Value, json};

use super::{Inputs, decide};
use crate::decision::{Action, Decision};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn vmi(name: &str, described: &str) -> Arc<VirtualMachineInstance> {
    let mut words = described.split(' ');
    let phase = words.next().unwrap();
    let mut object = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "9",
            "labels": {"app": "x"}, "creationTimestamp": at(NOW - 100).to_string(),
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet", "name": "set",
                "uid": "set-uid", "controller": true,
            }],
        },
        "spec": {"domain": {"devices": {}}},
        "status": {"phase": phase, "phaseTransitionTimestamps": [
            {"phase": phase, "phaseTransitionTimestamp": at(NOW - 60).to_string()}
        ]},
    });
    for word in words {
        match word {
            "ready" => object["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
            "young" => object["metadata"]["creationTimestamp"] = json!(at(NOW - 1).to_string()),
            "deleting" => object["metadata"]["deletionTimestamp"] = json!(at(NOW).to_string()),
            "foreign" => object["metadata"]["ownerReferences"][0]["uid"] = json!("another"),
            "stranger" => object["metadata"]["labels"] = json!({"app": "y"}),
            "now" => {
                object["status"]["phaseTransitionTimestamps"][0]["phaseTransitionTimestamp"] =
                    json!(at(NOW - 4).to_string());
            }
            other => panic!("{other}"),
        }
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn inputs(spec: Value, vmis: &[&str]) -> Inputs {
    let mut object = json!({
        "metadata": {"name": "set", "namespace": "ns", "uid": "set-uid", "resourceVersion": "7"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
            },
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    let names = ["a", "b", "c", "d"];
    Inputs {
        set: Arc::new(serde_json::from_value(object).unwrap()),
        vmis: vmis.iter().zip(names).map(|(described, name)| vmi(name, described)).collect(),
        machine_type: "q35".into(),
    }
}

fn told(decision: &Decision) -> String {
    let words = decision.actions.iter().filter_map(|action| match action {
        Action::CreateVmi(_) => Some("create".to_owned()),
        Action::DeleteVmi { name, .. } => Some(format!("delete {name}")),
        Action::PatchVmi { name, .. } => Some(format!("release {name}")),
        Action::PatchStatus(_) | Action::Patch(_) | Action::CreatePod(_) | Action::DeletePod { .. } => None,
        Action::PatchVmiStatus { .. }
        | Action::CreateMigration(_)
        | Action::DeleteMigration { .. }
        | Action::Tell(_) => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn table() {
    let table: &[(Value, &[&str], &str)] = &[
        (json!({}), &[], "create"),
        (json!({"replicas": 2}), &["Running ready"], "create"),
        (json!({"replicas": 2}), &["Running", "Running"], ""),
        (json!({"replicas": 0}), &["Running", "Pending"], "delete a, delete b"),
        (json!({"replicas": 1}), &["Running ready", "Scheduling"], "delete b"),
        (json!({"replicas": 1}), &["Running ready", "Running ready young"], "delete b"),
        (json!({"replicas": 1}), &["Running deleting"], "create"),
        (json!({"replicas": 1}), &["Succeeded"], "delete a, create"),
        (json!({"replicas": 1}), &["Failed"], "delete a, create"),
        (json!({"replicas": 1}), &["Failed now"], ""),
        (json!({"replicas": 1}), &["Running foreign"], "create"),
        (json!({"replicas": 1}), &["Running stranger"], "release a, create"),
        (json!({"replicas": 3, "paused": true}), &["Running", "Failed"], ""),
        (json!({"selector": {"matchLabels": {"app": "other"}}}), &[], ""),
        (json!({"selector": {}}), &[], ""),
    ];
    for (spec, vmis, expected) in table {
        let decision = decide(&inputs(spec.clone(), vmis), at(NOW));
        assert_eq!(told(&decision), *expected, "{spec} with {vmis:?}");
        assert_eq!(decision.confirm, !expected.is_empty(), "{spec} with {vmis:?}");
    }
}

#[test]
fn a_failed_instance_keeps_its_place_for_a_while() {
    let decision = decide(&inputs(json!({}), &["Failed now"]), at(NOW));
    assert_eq!(decision.requeue_after.unwrap().as_secs(), 6);
}

#[test]
fn two_leaders_use_the_same_names() {
    let names = |vmis: &[&str]| {
        let decision = decide(&inputs(json!({"replicas": 3}), vmis), at(NOW));
        let names = decision.actions.iter().filter_map(|action| match action {
            Action::CreateVmi(vmi) => Some(vmi.name().to_owned()),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    let all = names(&[]);
    assert_eq!(all.len(), 3);
    assert_eq!(all, names(&[]));
    assert!(all[0] != all[1] && all[1] != all[2]);
    // A name that is in use is left out, also while its instance goes.
    let mut taken = inputs(json!({"replicas": 3}), &["Running deleting"]);
    Arc::make_mut(&mut taken.vmis[0]).metadata.name = Some(all[0].clone());
    let decision = decide(&taken, at(NOW));
    let first = decision.actions.iter().find_map(|action| match action {
        Action::CreateVmi(vmi) => Some(vmi.name().to_owned()),
        _ => None,
    });
    assert_eq!(first, Some(all[1].clone()));
}

#[test]
fn the_status_counts_and_names_the_selector() {
    let decision =
        decide(&inputs(json!({"replicas": 2, "paused": true}), &["Running ready", "Pending"]), at(NOW));
    let Some(Action::PatchStatus(patch)) = decision.actions.first() else { panic!("{decision:?}") };
    insta::assert_yaml_snapshot!(patch);
}

#[test]
fn a_selector_that_doesnt_fit_is_told_of() {
    let decision = decide(&inputs(json!({"selector": {"matchLabels": {"app": "other"}}}), &[]), at(NOW));
    let text = format!("{:?}", decision.actions);
    assert!(text.contains("the selector doesn't match the template's labels"), "{text}");
}

#[test]
fn one_that_goes_is_left_to_the_garbage_collector() {
    let mut deleted = inputs(json!({"replicas": 0}), &["Running"]);
    Arc::make_mut(&mut deleted.set).metadata.deletion_timestamp =
        serde_json::from_value(json!(at(NOW).to_string())).unwrap();
    assert_eq!(decide(&deleted, at(NOW)), Decision::default());
}
