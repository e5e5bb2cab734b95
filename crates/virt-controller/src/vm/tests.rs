//! Every strategy against every instance and request, the backoff, and what people are told.

use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_types::vmi::StartStrategy;
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, labels};
use serde_json::{Value, json};

use super::{Inputs, decide};
use crate::decision::{Action, Decision};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn vm(spec: Value, status: Value) -> VirtualMachine {
    let mut object = json!({
        "metadata": {
            "name": "vm1", "namespace": "ns", "uid": "vm-uid", "resourceVersion": "7", "generation": 3,
            "finalizers": [labels::FINALIZER_VM],
        },
        "spec": {"template": {
            "metadata": {"labels": {"app": "x"}, "annotations": {"note": "y"}},
            "spec": {"domain": {"memory": {"guest": "96Mi"}, "devices": {}}},
        }},
        "status": status,
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// An instance in a phase, with words for what else is true of it.
fn vmi(described: &str) -> Option<VirtualMachineInstance> {
    let mut words = described.split(' ');
    let phase = words.next().filter(|phase| *phase != "none")?;
    let mut object = json!({
        "metadata": {
            "name": "vm1", "namespace": "ns", "uid": "vmi-uid", "resourceVersion": "9",
            "finalizers": [labels::FINALIZER_VM],
            "annotations": {"kubevirt.io/vm-generation": "2"},
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm1", "uid": "vm-uid",
                "controller": true,
            }],
        },
        "spec": {"domain": {"devices": {}}},
        "status": {"phase": phase},
    });
    let mut conditions = Vec::new();
    let mut condition = |type_: &str, status: &str, reason: &str| {
        let message = (reason == "LauncherPodFailed").then_some("no kernel");
        conditions.push(json!({"type": type_, "status": status, "reason": reason, "message": message}));
    };
    for word in words {
        match word {
            "ready" => condition("Ready", "True", "GuestRunning"),
            "broken" => condition("Ready", "False", "LauncherPodFailed"),
            "paused" => condition("Paused", "True", "PausedByUser"),
            "moving" => object["status"]["migrationState"] = json!({"migrationUid": "m1"}),
            "moved" => object["status"]["migrationState"] = json!({"migrationUid": "m1", "completed": true}),
            "unschedulable" => condition("PodScheduled", "False", "Unschedulable"),
            "provisioning" => condition("Provisioning", "True", "PreparingNode"),
            "ErrImagePull" | "ImagePullBackOff" => condition("Synchronized", "False", word),
            "deleting" => object["metadata"]["deletionTimestamp"] = json!(at(NOW).to_string()),
            "foreign" => object["metadata"]["ownerReferences"][0]["uid"] = json!("another"),
            "ran" => {
                object["status"]["phaseTransitionTimestamps"] =
                    json!([{"phase": "Running", "phaseTransitionTimestamp": at(NOW - 60).to_string()}]);
            }
            other => panic!("{other}"),
        }
    }
    object["status"]["conditions"] = json!(conditions);
    Some(serde_json::from_value(object).unwrap())
}

fn requests(described: &str) -> Value {
    described
        .split_whitespace()
        .map(|word| match word {
            "start" => json!({"action": "Start"}),
            "start-paused" => json!({"action": "Start", "data": {"paused": "true"}}),
            "stop" => json!({"action": "Stop", "uid": "vmi-uid"}),
            "stop-old" => json!({"action": "Stop", "uid": "old-uid"}),
            other => panic!("{other}"),
        })
        .collect()
}

fn inputs(vm: VirtualMachine, instance: &str) -> Inputs {
    Inputs { vm: Arc::new(vm), vmi: vmi(instance).map(Arc::new), machine_type: "q35".into() }
}

/// A decision's effects in a few words; status writes are looked at elsewhere.
fn told(decision: &Decision) -> String {
    let words = decision.actions.iter().filter_map(|action| match action {
        Action::PatchStatus(_) => None,
        Action::Patch(patch) if patch.get("spec").is_some() => Some(format!("spec {}", patch["spec"])),
        Action::Patch(_) => Some("finalizers".into()),
        Action::CreateVmi(_) => Some("create".into()),
        Action::DeleteVmi { uid, .. } => Some(format!("delete {uid}")),
        Action::PatchVmi { .. } => Some("release".into()),
        Action::CreatePod(_) | Action::DeletePod { .. } => Some("pods?".into()),
        Action::PatchVmiStatus { .. }
        | Action::CreateMigration(_)
        | Action::DeleteMigration { .. }
        | Action::Tell(_) => Some("migrations?".into()),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The status after a decision.
fn status(inputs: &Inputs, decision: &Decision) -> Value {
    let mut status = serde_json::to_value(inputs.vm.status.clone().unwrap_or_default()).unwrap();
    for action in &decision.actions {
        if let Action::PatchStatus(patch) = action {
            json_patch::merge(&mut status, &patch["status"]);
        }
    }
    status
}

#[test]
fn every_strategy_and_every_instance() {
    let table = [
        ("Always", "none", "", "create"),
        ("Always", "Running", "", ""),
        ("Always", "Succeeded", "", "delete vmi-uid"),
        ("Always", "Failed ran", "", "delete vmi-uid"),
        ("Always", "Failed ran deleting", "", "release"),
        ("Always", "Running deleting", "", ""),
        ("Always", "Running", "stop start", "delete vmi-uid"),
        ("Always", "none", "stop start", "create"),
        ("Always", "Running", "stop-old start", ""),
        ("Always", "Running foreign", "", ""),
        ("Halted", "none", "", ""),
        ("Halted", "Running", "", "delete vmi-uid"),
        ("Halted", "Scheduling", "", "delete vmi-uid"),
        ("Halted", "Running deleting", "", ""),
        ("Halted", "Succeeded deleting", "", "release"),
        ("Halted", "Running foreign", "", ""),
        ("Halted", "none", "start", r#"spec {"runStrategy":"Always"}"#),
        ("Halted", "none", "start-paused", r#"spec {"runStrategy":"Always"}"#),
        ("Manual", "none", "", ""),
        ("Manual", "none", "start", "create"),
        ("Manual", "Running", "start", ""),
        ("Manual", "Running", "stop", "delete vmi-uid"),
        ("Manual", "Running", "stop-old", ""),
        ("Manual", "Running", "stop start", "delete vmi-uid"),
        ("Manual", "none", "stop start", "create"),
        ("Manual", "Succeeded", "", ""),
        ("Manual", "Failed", "", ""),
        ("Manual", "Failed", "start", "delete vmi-uid"),
        ("RerunOnFailure", "none", "", "create"),
        ("RerunOnFailure", "Running", "", ""),
        ("RerunOnFailure", "Failed ran", "", "delete vmi-uid"),
        ("RerunOnFailure", "Succeeded", "", "delete vmi-uid"),
        ("RerunOnFailure", "Running", "stop", "delete vmi-uid"),
        ("RerunOnFailure", "none", "start", "create"),
        ("Once", "none", "", "create"),
        ("Once", "Running", "", ""),
        ("Once", "Succeeded", "", ""),
        ("Once", "Failed ran", "", ""),
        ("Once", "Failed", "", ""),
        ("Once", "Running deleting", "", ""),
        ("Once", "Failed ran deleting", "", "release"),
        ("Once", "Running", "stop", "delete vmi-uid"),
        ("Once", "Running foreign", "", ""),
    ];
    for (strategy, instance, asked, expected) in table {
        let vm = vm(json!({"runStrategy": strategy}), json!({"stateChangeRequests": requests(asked)}));
        let decision = decide(&inputs(vm, instance), at(NOW));
        assert_eq!(told(&decision), expected, "{strategy} with {instance} asked {asked:?}");
        let risky = !matches!(expected, "" | "release");
        assert!(!risky || decision.confirm, "{strategy} with {instance}: a stale cache could do this");
    }
}

#[test]
fn rerun_on_failure_starts_once_and_again_only_after_a_failure() {
    let over = |status: Value| {
        let vm = vm(json!({"runStrategy": "RerunOnFailure"}), status);
        told(&decide(&inputs(vm, "none"), at(NOW)))
    };
    assert_eq!(over(json!({"runStrategy": "Manual"})), "create");
    assert_eq!(over(json!({"runStrategy": "RerunOnFailure"})), "");
    // The restart is written down before the instance that failed goes.
    let failed = inputs(
        vm(json!({"runStrategy": "RerunOnFailure"}), json!({"runStrategy": "RerunOnFailure"})),
        "Failed ran",
    );
    let decision = decide(&failed, at(NOW));
    assert!(matches!(decision.actions[0], Action::PatchStatus(_)), "{decision:?}");
    let after = status(&failed, &decision);
    assert_eq!(after["stateChangeRequests"], json!([{"action": "Start"}]));
    assert_eq!(over(after), "create");
    // Somebody deleted it while it started: that is no failure.
    let deleted = inputs(vm(json!({"runStrategy": "RerunOnFailure"}), json!({})), "Failed deleting");
    let after = status(&deleted, &decide(&deleted, at(NOW)));
    assert_eq!(after.get("stateChangeRequests"), None);
    assert_eq!(over(after), "");
}

#[test]
fn once_is_once_whoever_dies_when() {
    let once = |status: Value| vm(json!({"runStrategy": "Once"}), status);
    // Before its instance is there nothing is noted: a leader that dies has lost nothing.
    let new = inputs(once(json!({"runStrategy": "Halted"})), "none");
    let decision = decide(&new, at(NOW));
    assert_eq!(told(&decision), "create");
    let after = status(&new, &decision);
    assert_eq!((&after["runStrategy"], &after["printableStatus"]), (&json!("Halted"), &json!("Starting")));
    // Whoever sees the instance notes it, also when that has ended already, before it is let go.
    for instance in ["Scheduling", "Running", "Failed", "Succeeded deleting"] {
        let seen = inputs(once(json!({})), instance);
        let decision = decide(&seen, at(NOW));
        let after = status(&seen, &decision);
        assert_eq!(after["runStrategy"], "Once", "{instance}");
        let written = decision.actions.iter().position(|action| matches!(action, Action::PatchStatus(_)));
        let released = decision.actions.iter().position(|action| matches!(action, Action::PatchVmi { .. }));
        assert!(released.is_none_or(|released| written.unwrap() < released), "{decision:?}");
        let gone = inputs(once(after), "none");
        let decision = decide(&gone, at(NOW));
        assert_eq!(told(&decision), "", "{instance}");
        assert_eq!(status(&gone, &decision)["printableStatus"], "Stopped", "{instance}");
    }
    // Halted in between, it is new again.
    assert_eq!(told(&decide(&inputs(once(json!({"runStrategy": "Halted"})), "none"), at(NOW))), "create");
}

#[test]
fn a_strategy_that_isnt_carried_out_yet_isnt_noted() {
    let new = inputs(vm(json!({"runStrategy": "RerunOnFailure"}), json!({})), "none");
    assert_eq!(status(&new, &decide(&new, at(NOW))).get("runStrategy"), None, "the start would be lost");
    let running = inputs(vm(json!({"runStrategy": "RerunOnFailure"}), json!({})), "Running");
    assert_eq!(status(&running, &decide(&running, at(NOW)))["runStrategy"], "RerunOnFailure");
}

#[test]
fn the_old_field_counts_too() {
    let told_of = |spec| told(&decide(&inputs(vm(spec, json!({})), "none"), at(NOW)));
    assert_eq!(told_of(json!({"running": true})), "create");
    assert_eq!(told_of(json!({"running": false})), "");
    let asked = vm(json!({"running": false}), json!({"stateChangeRequests": requests("start")}));
    assert_eq!(told(&decide(&inputs(asked, "none"), at(NOW))), r#"spec {"running":true}"#);
}

#[test]
fn requests_are_consumed_when_they_are_done() {
    let table = [
        ("start", "Running", ""),
        ("start", "none", "start"),
        ("start", "Failed", "start"),
        ("start", "Running deleting", "start"),
        ("stop", "Running", "stop"),
        ("stop", "none", ""),
        ("stop-old", "Running", ""),
        ("stop start", "Running", "stop start"),
        ("stop start", "none", "start"),
        ("stop-old start", "Running", ""),
    ];
    for (before, instance, after) in table {
        let inputs = inputs(
            vm(json!({"runStrategy": "Manual"}), json!({"stateChangeRequests": requests(before)})),
            instance,
        );
        let decision = decide(&inputs, at(NOW));
        let left = status(&inputs, &decision).get("stateChangeRequests").cloned().unwrap_or(json!([]));
        assert_eq!(left, requests(after), "{before:?} with {instance}");
        assert!(
            before == after || decision.confirm,
            "{before:?} with {instance}: a stale cache could lose it"
        );
    }
}

#[test]
fn failed_starts_wait_longer_and_longer_and_one_that_ran_forgets_them() {
    let always = |status| vm(json!({"runStrategy": "Always"}), status);
    let first = inputs(always(json!({})), "Failed broken");
    let decision = decide(&first, at(NOW));
    assert_eq!(told(&decision), "delete vmi-uid");
    let failed = status(&first, &decision);
    assert_eq!(
        failed["startFailure"],
        json!({
            "consecutiveFailCount": 1, "lastFailedVMIUID": "vmi-uid",
            "retryAfterTimestamp": at(NOW + 10).to_string(),
        })
    );
    // Seen again, it is counted once.
    let again = inputs(always(failed.clone()), "Failed");
    assert_eq!(status(&again, &decide(&again, at(NOW + 1)))["startFailure"], failed["startFailure"]);
    // Gone, the next waits, and says so.
    let waiting = inputs(always(failed.clone()), "none");
    let decision = decide(&waiting, at(NOW + 3));
    assert_eq!((told(&decision).as_str(), decision.requeue_after.unwrap().as_secs()), ("", 7));
    let told_of = status(&waiting, &decision);
    assert_eq!(told_of["printableStatus"], "CrashLoopBackOff");
    assert!(told_of["conditions"].to_string().contains("instance vm1 failed: no kernel"), "{told_of}");
    assert_eq!(told(&decide(&waiting, at(NOW + 10))), "create");
    for forgets in ["Running ran", "Failed ran"] {
        let ran = inputs(always(failed.clone()), forgets);
        let after = status(&ran, &decide(&ran, at(NOW)));
        assert_eq!(after.get("startFailure"), None, "{forgets}");
        assert!(!after["conditions"].to_string().contains("StartFailed"), "{forgets}: {after}");
    }
    let halted = inputs(vm(json!({"runStrategy": "Halted"}), failed), "none");
    assert_eq!(status(&halted, &decide(&halted, at(NOW))).get("startFailure"), None);
}

#[test]
fn the_word_for_people() {
    let table = [
        ("Always", "none", "", "Starting"),
        ("Halted", "none", "", "Stopped"),
        ("Manual", "none", "start", "Starting"),
        ("Always", "Pending", "", "Starting"),
        ("Always", "Scheduling unschedulable", "", "ErrorUnschedulable"),
        ("Always", "Scheduling provisioning", "", "Provisioning"),
        ("Always", "Scheduling ErrImagePull", "", "ErrImagePull"),
        ("Always", "Scheduling ImagePullBackOff", "", "ImagePullBackOff"),
        ("Always", "Scheduled", "", "Starting"),
        ("Always", "Running ready", "", "Running"),
        ("Always", "Running ready paused", "", "Paused"),
        ("Always", "Running ready moving", "", "Migrating"),
        ("Always", "Running ready paused moving", "", "Migrating"),
        ("Always", "Running ready moved", "", "Running"),
        ("Always", "Running ready moving deleting", "", "Stopping"),
        ("Always", "Running deleting", "", "Stopping"),
        ("Manual", "Running", "stop", "Stopping"),
        ("Always", "Unknown", "", "Unknown"),
        ("Manual", "Succeeded", "", "Stopped"),
        ("Halted", "Succeeded deleting", "", "Stopped"),
        ("Always", "Failed", "", "CrashLoopBackOff"),
        ("RerunOnFailure", "Succeeded", "", "Stopped"),
        ("Once", "none", "", "Starting"),
        ("Once", "Running ready", "", "Running"),
        ("Once", "Succeeded", "", "Stopped"),
        ("Once", "Failed", "", "Stopped"),
        ("Always", "Running foreign", "", "Starting"),
    ];
    for (strategy, instance, asked, expected) in table {
        let vm = vm(json!({"runStrategy": strategy}), json!({"stateChangeRequests": requests(asked)}));
        let inputs = inputs(vm, instance);
        let after = status(&inputs, &decide(&inputs, at(NOW)));
        assert_eq!(after["printableStatus"], expected, "{strategy} with {instance} asked {asked:?}");
    }
}

#[test]
fn conditions_are_the_instances_and_go_with_it() {
    let running = inputs(vm(json!({"runStrategy": "Always"}), json!({})), "Running ready paused");
    let after = status(&running, &decide(&running, at(NOW)));
    insta::assert_yaml_snapshot!(after);
    let stopped = inputs(vm(json!({"runStrategy": "Halted"}), after), "none");
    let after = status(&stopped, &decide(&stopped, at(NOW)));
    assert_eq!(after["conditions"].as_array().unwrap().len(), 1, "{after}");
    assert_eq!(after["conditions"][0]["reason"], "VMINotExists");
    assert_eq!((&after["created"], &after["ready"]), (&json!(false), &json!(false)));
}

#[test]
fn an_instance_in_the_way_is_told_of_and_left_alone() {
    let inputs = inputs(vm(json!({"runStrategy": "Always"}), json!({})), "Running foreign");
    let after = status(&inputs, &decide(&inputs, at(NOW)));
    let conditions = after["conditions"].as_array().unwrap();
    let failure = conditions.iter().find(|condition| condition["type"] == "Failure").unwrap();
    assert_eq!(failure["reason"], "FailedCreate");
    assert_eq!(after["created"], false);
}

#[test]
fn a_deleted_vm_takes_its_instance_with_it() {
    let deleted = |instance: &str, finalizers: Value| {
        let mut vm = vm(json!({"runStrategy": "Always"}), json!({}));
        vm.metadata.deletion_timestamp = serde_json::from_value(json!(at(NOW).to_string())).unwrap();
        vm.metadata.finalizers = serde_json::from_value(finalizers).unwrap();
        let inputs = inputs(vm, instance);
        let decision = decide(&inputs, at(NOW));
        assert_eq!(status(&inputs, &decision)["printableStatus"], "Terminating");
        told(&decision)
    };
    let ours = || json!([labels::FINALIZER_VM]);
    assert_eq!(deleted("Running", ours()), "delete vmi-uid");
    assert_eq!(deleted("Running deleting", ours()), "");
    assert_eq!(deleted("Succeeded deleting", ours()), "release");
    assert_eq!(deleted("none", ours()), "finalizers");
    assert_eq!(deleted("Running foreign", ours()), "finalizers");
    assert_eq!(deleted("Running", json!([labels::FINALIZER_VM, "orphan"])), "finalizers");
    assert_eq!(deleted("none", json!(["somebody/elses"])), "");
}

#[test]
fn the_instance_is_made_from_the_template() {
    let decision = decide(&inputs(vm(json!({"runStrategy": "Always"}), json!({})), "none"), at(NOW));
    let Some(Action::CreateVmi(vmi)) = decision.actions.last() else { panic!("{decision:?}") };
    insta::assert_yaml_snapshot!(vmi);
}

#[test]
fn only_the_start_that_asks_for_it_begins_paused() {
    let table = [
        ("Always", "start-paused", Some(StartStrategy::Paused)),
        ("Manual", "start-paused", Some(StartStrategy::Paused)),
        ("RerunOnFailure", "stop-old start-paused", Some(StartStrategy::Paused)),
        ("Manual", "start", None),
        ("Always", "", None),
    ];
    for (strategy, asked, expected) in table {
        let vm = vm(json!({"runStrategy": strategy}), json!({"stateChangeRequests": requests(asked)}));
        let decision = decide(&inputs(vm, "none"), at(NOW));
        let Some(Action::CreateVmi(vmi)) = decision.actions.last() else { panic!("{decision:?}") };
        assert_eq!(vmi.spec.start_strategy, expected, "{strategy} asked {asked:?}");
    }
    // A halted VM becomes Always first, and remembers how it is to begin.
    let halted = inputs(
        vm(json!({"runStrategy": "Halted"}), json!({"stateChangeRequests": requests("start-paused")})),
        "none",
    );
    let after = status(&halted, &decide(&halted, at(NOW)));
    assert_eq!(after["stateChangeRequests"], requests("start-paused"));
}

#[test]
fn nothing_to_do_is_nothing_done() {
    let first = inputs(vm(json!({"runStrategy": "Always"}), json!({})), "Running ready");
    let after = status(&first, &decide(&first, at(NOW)));
    let settled = inputs(vm(json!({"runStrategy": "Always"}), after), "Running ready");
    assert_eq!(decide(&settled, at(NOW + 100)), Decision::default());
}
