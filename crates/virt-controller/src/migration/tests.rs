//! Every phase against everything that its instance and its target pod may say.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::{VirtualMachineInstance, labels};
use serde_json::{Value, json};

use super::turn::Other;
use super::{Inputs, decide};
use crate::decision::{Action, Decision};
use crate::launcher::LauncherConfig;

pub(super) const NOW: i64 = 1_000_000;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn config() -> LauncherConfig {
    LauncherConfig {
        image: "launcher:v0.18.0".into(),
        use_emulation: true,
        image_pull_policy: "IfNotPresent".into(),
        guest_image_pull_policy: "IfNotPresent".into(),
    }
}

/// The instance, in words.
fn vmi(described: &str) -> Option<VirtualMachineInstance> {
    let mut object = json!({
        "metadata": {
            "name": "vm1", "namespace": "ns", "uid": "u1", "resourceVersion": "7",
            "labels": {labels::NODE_NAME: "n1"},
        },
        "spec": {"domain": {"memory": {"guest": "96Mi"}, "devices": {}}},
        "status": {
            "phase": "Running", "nodeName": "n1",
            "conditions": [{"type": "LiveMigratable", "status": "True"}],
        },
    });
    let mut state = json!({
        "migrationUid": "m1", "sourceNode": "n1", "sourcePod": "source", "targetNode": "n2",
        "targetPod": "target",
    });
    let mut known = false;
    for word in described.split_whitespace() {
        match word {
            "missing" => return None,
            "deleting" => object["metadata"]["deletionTimestamp"] = json!(at(NOW).to_string()),
            "Succeeded" | "Scheduled" => object["status"]["phase"] = json!(word),
            "fixed" => {
                object["status"]["conditions"] = json!([{
                    "type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable",
                    "message": "its disk is local",
                }]);
            }
            "unsized" => object["spec"]["domain"]["memory"] = Value::Null,
            "labelled" => object["metadata"]["labels"][labels::MIGRATION_TARGET_NODE] = json!("n2"),
            "known" => known = true,
            "another" => {
                known = true;
                state["migrationUid"] = json!("m0");
            }
            "addressed" => {
                state["targetNodeAddress"] = json!("10.0.0.2");
                state["targetPort"] = json!(49152);
            }
            "started" => state["startTimestamp"] = json!(at(NOW).to_string()),
            "unwanted" => state["abortRequested"] = json!(true),
            "completed" => {
                state["completed"] = json!(true);
                object["status"]["nodeName"] = json!("n2");
            }
            "failed" => {
                state["failed"] = json!(true);
                state["failureReason"] = json!("no route");
            }
            other => panic!("{other}"),
        }
    }
    if known {
        object["status"]["migrationState"] = state;
    }
    Some(serde_json::from_value(object).unwrap())
}

/// A launcher pod of the instance: `source`, or `target` of this migration, in a state.
fn pod(described: &str) -> Pod {
    let (name, state) = described.split_once(' ').unwrap_or((described, "ready"));
    let (phase, ready) = match state {
        "new" | "unschedulable" | "late" | "lost" => ("Pending", "False"),
        "ready" | "terminating" | "near" => ("Running", "True"),
        "dead" => ("Failed", "False"),
        "left" => ("Succeeded", "False"),
        other => panic!("{other}"),
    };
    let age = match state {
        "late" => 15 * 60,
        "lost" => 5 * 60,
        _ => 60,
    };
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("{name}-uid"),
            "creationTimestamp": at(NOW - age).to_string(),
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm1", "uid": "u1",
                "controller": true,
            }],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    });
    if name == "target" {
        pod["metadata"]["labels"] = json!({labels::MIGRATION_UID: "m1"});
        pod["spec"]["nodeName"] = json!(if state == "near" { "n1" } else { "n2" });
    }
    if matches!(state, "unschedulable" | "lost") {
        pod["spec"]["nodeName"] = Value::Null;
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes",
        }]);
    }
    if state == "terminating" {
        pod["metadata"]["deletionTimestamp"] = json!(at(NOW).to_string());
    }
    serde_json::from_value(pod).unwrap()
}

/// The migration in a phase; `!` behind it: somebody has deleted it.
pub(super) fn inputs(phase: &str, instance: &str, pods: &[&str]) -> Inputs {
    let mut object = json!({
        "metadata": {
            "name": "move", "namespace": "ns", "uid": "m1", "resourceVersion": "3",
            "creationTimestamp": at(NOW - 100).to_string(),
            "finalizers": [labels::FINALIZER_MIGRATION], "labels": {labels::MIGRATION_VMI: "vm1"},
        },
        "spec": {"vmiName": "vm1"},
        "status": {"phase": phase.trim_end_matches('!')},
    });
    if phase.ends_with('!') {
        object["metadata"]["deletionTimestamp"] = json!(at(NOW).to_string());
    }
    let migration = Arc::new(serde_json::from_value(object).unwrap());
    Inputs {
        all: vec![Other {
            migration: Arc::clone(&migration),
            source_node: Some("n1".into()),
            has_pod: false,
        }],
        migration,
        vmi: vmi(instance).map(Arc::new),
        pods: pods.iter().map(|described| Arc::new(pod(described))).collect(),
        limits: serde_json::from_value(json!({"parallelMigrationsPerCluster": 5})).unwrap(),
        launcher: config(),
    }
}

/// A decision in a few words.
fn told(decision: &Decision) -> String {
    let mut words: Vec<String> = decision
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::PatchStatus(patch) => {
                let phase = patch.pointer("/status/phase").and_then(Value::as_str);
                let conditions = patch.pointer("/status/conditions").and_then(Value::as_array);
                let last = conditions.and_then(|all| all.last()).and_then(|c| c["reason"].as_str());
                let words = [phase.map(|phase| format!("-> {phase}")), last.map(str::to_owned)];
                Some(words.into_iter().flatten().collect::<Vec<_>>().join(" "))
            }
            Action::Patch(patch) => {
                let metadata = patch["metadata"].as_object().unwrap();
                Some(metadata.keys().cloned().collect::<Vec<_>>().join("+"))
            }
            Action::CreatePod(_) => Some("create pod".into()),
            Action::DeletePod { name, .. } => Some(format!("delete {name}")),
            Action::PatchVmi { patch, .. } => {
                assert_eq!(patch["metadata"]["resourceVersion"], "7");
                Some("label".into())
            }
            Action::PatchVmiStatus { patch, .. } => {
                assert_eq!(patch["metadata"]["resourceVersion"], "7");
                Some("state".into())
            }
            Action::DeleteMigration { name, .. } => Some(format!("delete {name}")),
            // Each is told of twice: of the migration and of the instance.
            Action::Tell(news) if news.about.kind.as_deref() == Some("VirtualMachineInstance") => None,
            Action::Tell(news) => Some(format!("tell {}", news.reason)),
            Action::CreateVmi(_) | Action::DeleteVmi { .. } | Action::CreateMigration(_) => {
                panic!("{action:?}")
            }
        })
        .collect();
    if let Some(wait) = decision.requeue_after {
        words.push(format!("look in {} s", wait.as_secs()));
    }
    if decision.confirm {
        words.push("confirm".into());
    }
    words.join(", ")
}

fn failed(reason: &str) -> String {
    format!("-> Failed {reason}, tell FailedMigration, finalizers, confirm")
}

fn dropped(reason: &str) -> String {
    format!("delete target, {}", failed(reason))
}

#[test]
fn a_target_must_have_the_added_labels_and_the_instances_own_count_more() {
    let mut inputs = inputs("Pending", "", &["source"]);
    let mut migration = (*inputs.migration).clone();
    migration.spec.added_node_selector =
        [("zone", "b"), ("disk", "slow")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    inputs.migration = Arc::new(migration);
    let mut vmi = (**inputs.vmi.as_ref().unwrap()).clone();
    vmi.spec.node_selector = serde_json::from_value(json!({"disk": "fast"})).unwrap();
    inputs.vmi = Some(Arc::new(vmi));
    let decision = decide(&inputs, at(NOW));
    let pod = decision.actions.iter().find_map(|action| match action {
        Action::CreatePod(pod) => Some(pod),
        _ => None,
    });
    let selector = pod.unwrap().spec.as_ref().unwrap().node_selector.clone().unwrap();
    assert_eq!((selector["zone"].as_str(), selector["disk"].as_str()), ("b", "fast"));
    assert_eq!(selector[labels::SCHEDULABLE], "true");
}

#[test]
fn the_road() {
    let both: &[&str] = &["source", "target"];
    let table: &[(&str, &str, &[&str], &str)] = &[
        ("", "", &["source"], "-> Pending"),
        ("Pending", "", &["source"], "create pod, -> Scheduling, confirm"),
        ("Pending", "", both, "-> Scheduling"),
        ("Scheduling", "", both, "-> Scheduled"),
        ("Scheduled", "", both, "label, confirm"),
        ("Scheduled", "labelled", both, "state, confirm"),
        ("Scheduled", "labelled known", both, "-> PreparingTarget, tell SuccessfulHandOver"),
        ("PreparingTarget", "known", both, ""),
        ("PreparingTarget", "known addressed", both, "-> TargetReady"),
        ("TargetReady", "known addressed", both, ""),
        ("TargetReady", "known addressed started", both, "-> Running"),
        // Somebody looked away for a while.
        ("PreparingTarget", "known addressed started", both, "-> Running"),
        ("Running", "known addressed started", both, ""),
        (
            "Running",
            "known addressed started completed",
            both,
            "-> Succeeded, tell SuccessfulMigration, finalizers",
        ),
        (
            "PreparingTarget",
            "known completed",
            &["target"],
            "-> Succeeded, tell SuccessfulMigration, finalizers",
        ),
    ];
    for (phase, instance, pods, expected) in table {
        let inputs = inputs(phase, instance, pods);
        let decision = decide(&inputs, at(NOW));
        assert_eq!(told(&decision), *expected, "{phase:?} with {instance:?} and {pods:?}");
        assert_eq!(decide(&inputs, at(NOW)), decision, "{phase:?} with {instance:?} and {pods:?}");
    }
}

#[test]
fn what_goes_wrong() {
    let both: &[&str] = &["source", "target"];
    let told_failed = |reason: &str| format!("-> Failed {reason}, tell FailedMigration, finalizers");
    let table: &[(&str, &str, &[&str], String)] = &[
        ("", "missing", &[], failed("InstanceNotFound")),
        ("", "deleting", &["source"], failed("InstanceEnded")),
        ("", "Succeeded", &[], failed("InstanceEnded")),
        ("Pending", "Scheduled", &["source"], failed("InstanceNotRunning")),
        ("Pending", "fixed", &["source"], failed("NotMigratable")),
        ("Pending", "unsized", &["source"], failed("FailedCreate")),
        ("Pending", "another", &["source"], "InstanceBusy".into()),
        ("Pending", "another failed", &["source"], "create pod, -> Scheduling, confirm".into()),
        ("Pending", "another failed", &["source", "stray"], "InstanceBusy".into()),
        (
            "Pending",
            "another failed",
            &["source", "stray terminating"],
            "create pod, -> Scheduling, confirm".into(),
        ),
        ("Scheduling", "", &["source"], failed("TargetPodGone")),
        ("Scheduling", "", &["source", "target terminating"], failed("TargetPodGone")),
        ("Scheduling", "", &["source", "target dead"], dropped("TargetPodFailed")),
        ("Scheduling", "", &["source", "target new"], "look in 840 s".into()),
        ("Scheduling", "", &["source", "target late"], dropped("TargetPodTimeout")),
        ("Scheduling", "", &["source", "target unschedulable"], "Unschedulable, look in 240 s".into()),
        ("Scheduling", "", &["source", "target lost"], dropped("TargetPodTimeout")),
        ("Scheduling", "Succeeded", both, dropped("InstanceEnded")),
        ("Scheduling", "fixed", both, dropped("NotMigratable")),
        ("Scheduled", "", &["source", "target near"], dropped("SameNode")),
        ("Scheduled", "", &["source left", "target"], dropped("SourcePodGone")),
        ("Scheduled", "", &["source", "target new"], "look in 840 s".into()),
        ("Scheduled", "deleting", both, dropped("InstanceEnded")),
        ("Scheduled", "labelled another", both, dropped("AnotherMigration")),
        ("Running", "missing", &[], failed("InstanceGone")),
        ("Running", "", both, dropped("InstanceGone")),
        (
            "Running",
            "known started failed",
            both,
            format!("delete target, {}", told_failed("MigrationFailed")),
        ),
        ("Running", "known unwanted failed", &["source"], told_failed("Aborted")),
        (
            "PreparingTarget",
            "known failed",
            &["source", "target terminating"],
            told_failed("MigrationFailed"),
        ),
        // An end of the instance is told by its controller, in the state.
        ("Running", "known started Succeeded", both, String::new()),
        ("Running", "known started deleting", both, String::new()),
    ];
    for (phase, instance, pods, expected) in table {
        let inputs = inputs(phase, instance, pods);
        let decision = decide(&inputs, at(NOW));
        assert_eq!(told(&decision), *expected, "{phase:?} with {instance:?} and {pods:?}");
        assert_eq!(decide(&inputs, at(NOW)), decision, "{phase:?} with {instance:?} and {pods:?}");
    }
}

#[test]
fn deleted() {
    let both: &[&str] = &["source", "target"];
    let table: &[(&str, &str, &[&str], String)] = &[
        ("!", "", &["source"], failed("Aborted")),
        ("Pending!", "", &["source"], failed("Aborted")),
        ("Scheduling!", "", both, dropped("Aborted")),
        ("Scheduled!", "labelled", both, dropped("Aborted")),
        // The source is asked first.
        ("Scheduled!", "labelled known", both, "-> PreparingTarget, tell SuccessfulHandOver".into()),
        ("Running!", "known started unwanted", both, String::new()),
        (
            "Running!",
            "known unwanted completed",
            both,
            "-> Succeeded, tell SuccessfulMigration, finalizers".into(),
        ),
        ("Running!", "missing", &[], failed("Aborted")),
        ("Failed!", "", &[], "finalizers".into()),
        ("Succeeded", "another completed", &[], "finalizers".into()),
    ];
    for (phase, instance, pods, expected) in table {
        let decision = decide(&inputs(phase, instance, pods), at(NOW));
        assert_eq!(told(&decision), *expected, "{phase:?} with {instance:?} and {pods:?}");
    }
}

#[test]
fn the_finalizer_and_the_label_come_first() {
    let mut inputs = inputs("", "", &["source"]);
    let mut bare = (*inputs.migration).clone();
    bare.metadata.finalizers = None;
    bare.metadata.labels = None;
    bare.status = None;
    inputs.migration = Arc::new(bare);
    assert_eq!(told(&decide(&inputs, at(NOW))), "finalizers+labels, -> Pending");
}
