//! Every phase against every state of the launcher pod.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::{VirtualMachineInstance, VmiPhase, labels};
use serde_json::{Value, json};

use super::node::NodeSeen;
use super::{Inputs, Owner, decide};
use crate::decision::{Action, Decision};
use crate::launcher::LauncherConfig;

pub(super) const NOW: i64 = 1_000_000;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn config() -> LauncherConfig {
    LauncherConfig {
        image: "kubevirt/virt-launcher:v0.18.0".into(),
        use_emulation: true,
        image_pull_policy: "IfNotPresent".into(),
        guest_image_pull_policy: "IfNotPresent".into(),
    }
}

pub(super) fn vmi(phase: &str, metadata: Value) -> VirtualMachineInstance {
    let mut object = json!({
        "metadata": {
            "name": "vm1", "namespace": "ns", "uid": "u1", "resourceVersion": "7",
            "finalizers": [labels::FINALIZER_VMI, labels::FINALIZER_VM],
            "labels": {labels::NODE_NAME: "n1"},
        },
        "spec": {"domain": {"memory": {"guest": "96Mi"}, "devices": {}}},
        "status": {"phase": phase},
    });
    if matches!(phase, "Scheduled" | "Running" | "Unknown" | "Succeeded") {
        object["status"]["nodeName"] = json!("n1");
    }
    for (key, value) in metadata.as_object().unwrap() {
        object["metadata"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

pub(super) fn deleting(second: i64) -> Value {
    json!({"deletionTimestamp": at(second).to_string()})
}

/// A launcher pod of the instance, on n1.
pub(super) fn pod(state: &str) -> Pod {
    let (phase, ready, container) = match state {
        "unscheduled" => ("Pending", "False", Value::Null),
        "pulling" => {
            ("Pending", "False", json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}))
        }
        "absent" => ("Pending", "False", json!({"waiting": {"reason": "ErrImageNeverPull"}})),
        "initialising" => ("Pending", "False", json!({"waiting": {"reason": "PodInitializing"}})),
        "starting" => ("Running", "False", json!({"running": {}})),
        "ready" | "terminating" => ("Running", "True", json!({"running": {}})),
        "succeeded" => (
            "Succeeded",
            "False",
            json!({"terminated": {"exitCode": 0, "finishedAt": at(NOW - 5).to_string()}}),
        ),
        "failed" => (
            "Failed",
            "False",
            json!({"terminated": {"exitCode": 1, "finishedAt": at(NOW - 60).to_string()}}),
        ),
        // A node that can't be asked: others call the pod Failed, its container may run.
        "lost" => ("Failed", "False", json!({"running": {}})),
        other => panic!("{other}"),
    };
    let mut pod = json!({
        "metadata": {
            "name": "virt-launcher-vm1-abcde", "namespace": "ns", "uid": "p1",
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm1", "uid": "u1",
                "controller": true,
            }],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "compute", "image": "launcher:1"}]},
        "status": {
            "phase": phase, "qosClass": "Burstable",
            "conditions": [{"type": "Ready", "status": ready}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{
                "name": "compute", "image": "", "imageID": "", "ready": ready == "True", "restartCount": 0,
                "state": container,
            }],
        },
    });
    match state {
        "unscheduled" => {
            pod["spec"]["nodeName"] = Value::Null;
            pod["status"]["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes",
            }]);
            pod["status"]["containerStatuses"] = json!([]);
        }
        "initialising" => {
            pod["status"]["conditions"] = json!([{"type": "Initialized", "status": "False"}]);
        }
        "terminating" => pod["metadata"]["deletionTimestamp"] = json!(at(NOW - 1).to_string()),
        _ => {}
    }
    serde_json::from_value(pod).unwrap()
}

pub(super) fn inputs(vmi: VirtualMachineInstance, pods: &[&str]) -> Inputs {
    Inputs {
        vmi: Arc::new(vmi),
        pods: pods.iter().map(|state| Arc::new(pod(state))).collect(),
        owner: Owner::Alive,
        migrations: vec![],
        node: NodeSeen::of(None, None, None),
        launcher: config(),
    }
}

/// A decision in a few words: the phase it writes, and what else it does.
pub(super) fn told(decision: &Decision) -> String {
    let mut words: Vec<String> = decision
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::PatchStatus(patch) => {
                let phase = patch.pointer("/status/phase").and_then(Value::as_str);
                Some(phase.map_or("status".to_owned(), |phase| format!("-> {phase}")))
            }
            Action::Patch(patch) => {
                let metadata = patch["metadata"].as_object().unwrap();
                Some(metadata.keys().cloned().collect::<Vec<_>>().join("+"))
            }
            Action::CreatePod(_) => Some("create pod".into()),
            Action::DeletePod { .. } => Some("delete pod".into()),
            Action::CreateMigration(_) => Some("migrate".into()),
            Action::CreateVmi(_)
            | Action::DeleteVmi { .. }
            | Action::PatchVmi { .. }
            | Action::PatchVmiStatus { .. }
            | Action::DeleteMigration { .. }
            | Action::Tell(_) => None,
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

#[test]
fn every_phase_and_every_pod() {
    let table: &[(&str, &[&str], &str)] = &[
        ("", &[], "-> Pending, create pod, confirm"),
        ("Pending", &[], "status, create pod, confirm"),
        ("", &["unscheduled"], "-> Scheduling"),
        ("Pending", &["starting"], "-> Scheduling"),
        ("Pending", &["ready"], "-> Scheduled"),
        ("Pending", &["failed"], "-> Failed"),
        ("Scheduling", &[], "-> Failed, confirm"),
        ("Scheduling", &["unscheduled"], "status"),
        ("Scheduling", &["pulling"], "status"),
        ("Scheduling", &["ready"], "-> Scheduled"),
        ("Scheduling", &["terminating"], "-> Scheduled"),
        ("Scheduling", &["failed"], "-> Failed"),
        ("Scheduling", &["succeeded"], "-> Failed"),
        ("Scheduling", &["lost"], "status"),
        // A pod that has ended is no reason while another lives.
        ("Scheduling", &["failed", "ready"], "-> Scheduled"),
        ("Scheduled", &["ready"], "status"),
        ("Running", &["ready"], "status"),
        ("Running", &["starting"], "status"),
        ("Running", &["terminating"], "status"),
        ("Running", &["lost"], "status"),
        ("Unknown", &["ready"], "status"),
        ("Running", &[], "-> Failed, confirm"),
        ("Scheduled", &[], "-> Failed, confirm"),
        // virt-handler has ten seconds to tell how it ended.
        ("Running", &["succeeded"], "look in 5 s"),
        ("Running", &["failed"], "-> Failed"),
        ("Succeeded", &["ready"], "status, delete pod"),
        ("Failed", &["starting"], "status, delete pod"),
        ("Failed", &["terminating"], "status"),
        // Its logs can still be read.
        ("Failed", &["failed"], ""),
        ("Succeeded", &[], ""),
    ];
    for (phase, pods, expected) in table {
        let decision = decide(&inputs(vmi(phase, json!({})), pods), at(NOW));
        assert_eq!(told(&decision), *expected, "{phase:?} with {pods:?}");
    }
}

#[test]
fn every_phase_and_every_pod_of_a_deleted_instance() {
    // Asked for 10 s ago, with a grace of 30 s: virt-handler has until 60 s after.
    let table: &[(&str, &[&str], &str)] = &[
        ("", &[], "-> Failed, finalizers, confirm"),
        ("Pending", &[], "-> Failed, finalizers, confirm"),
        ("Scheduling", &[], "-> Failed, finalizers, confirm"),
        ("Scheduling", &["starting"], "delete pod"),
        ("Pending", &["ready"], "delete pod"),
        ("Scheduling", &["terminating"], ""),
        ("Scheduled", &["ready"], "look in 50 s"),
        ("Running", &["ready"], "look in 50 s"),
        ("Running", &["terminating"], "look in 50 s"),
        ("Running", &["lost"], "look in 50 s"),
        ("Running", &["succeeded"], "look in 5 s"),
        ("Running", &["failed"], "delete pod"),
        ("Running", &[], "-> Succeeded, finalizers, confirm"),
        ("Succeeded", &["ready"], "delete pod"),
        ("Failed", &["failed"], "delete pod"),
        ("Succeeded", &[], "finalizers, confirm"),
    ];
    for (phase, pods, expected) in table {
        let decision = decide(&inputs(vmi(phase, deleting(NOW - 10)), pods), at(NOW));
        assert_eq!(told(&decision), *expected, "{phase:?} with {pods:?}");
    }
    for pods in [["ready"], ["starting"]] {
        let late = decide(&inputs(vmi("Running", deleting(NOW - 60)), &pods), at(NOW));
        assert_eq!(told(&late), "delete pod", "virt-handler is waited for, and not for ever");
    }
}

#[test]
fn the_vms_finalizer_goes_only_when_no_vm_looks_after_it() {
    let left = |owner| {
        let inputs = Inputs { owner, ..inputs(vmi("Succeeded", deleting(NOW)), &[]) };
        let decision = decide(&inputs, at(NOW));
        let Some(Action::Patch(patch)) = decision.actions.last().cloned() else { panic!("{decision:?}") };
        patch["metadata"]["finalizers"].clone()
    };
    assert_eq!(left(Owner::Alive), json!([labels::FINALIZER_VM]));
    assert_eq!(left(Owner::Gone), json!([]));
    assert_eq!(left(Owner::None), json!([]));
}

#[test]
fn no_pod_without_the_finalizer() {
    let decision = decide(&inputs(vmi("", json!({"finalizers": []})), &[]), at(NOW));
    assert_eq!(told(&decision), "finalizers, -> Pending, create pod, confirm");
}

#[test]
fn the_label_comes_before_the_phase() {
    let decision = decide(&inputs(vmi("Scheduling", json!({"labels": {}})), &["ready"]), at(NOW));
    assert_eq!(told(&decision), "labels, -> Scheduled");
    let Some(Action::PatchStatus(patch)) = decision.actions.last() else { panic!() };
    insta::assert_yaml_snapshot!(patch);
}

#[test]
fn what_keeps_a_pod_is_told() {
    let conditions = |state| {
        let decision = decide(&inputs(vmi("Scheduling", json!({})), &[state]), at(NOW));
        let Some(Action::PatchStatus(patch)) = decision.actions.last().cloned() else { panic!() };
        let told = |c: &Value| format!("{}={} {}", c["type"], c["status"], c["reason"]).replace('"', "");
        patch["status"]["conditions"].as_array().unwrap().iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(
        conditions("unscheduled"),
        ["Ready=False GuestNotRunning", "PodScheduled=False Unschedulable"]
    );
    assert_eq!(conditions("pulling"), ["Ready=False GuestNotRunning", "Synchronized=False ErrImagePull"]);
    let absent = conditions("absent");
    assert_eq!(absent, ["Ready=False GuestNotRunning", "Synchronized=False ErrImageNeverPull"]);
    assert_eq!(
        conditions("initialising"),
        ["Ready=False GuestNotRunning", "Provisioning=True PreparingNode"]
    );
}

#[test]
fn an_instance_that_cant_be_rendered_says_why_and_gets_no_pod() {
    let mut object = vmi("", json!({}));
    object.spec.domain.memory = None;
    let decision = decide(&inputs(object, &[]), at(NOW));
    assert_eq!(told(&decision), "-> Pending");
    let text = format!("{:?}", decision.actions);
    assert!(text.contains("no memory requested"), "{text}");
}

#[test]
fn pods_of_others_dont_count() {
    let mut foreign = pod("ready");
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "another".into();
    let inputs = Inputs { pods: vec![Arc::new(foreign)], ..inputs(vmi("Pending", json!({})), &[]) };
    assert_eq!(told(&decide(&inputs, at(NOW))), "status, create pod, confirm");
}

#[test]
fn after_the_handover_only_pods_are_written() {
    let mut object = vmi("Running", json!({}));
    let decision = decide(&inputs(object.clone(), &["ready"]), at(NOW));
    assert_eq!(
        decision.actions,
        [Action::PatchStatus(json!({"status": {
            "activePods": {"p1": "n1"}, "launcherContainerImageVersion": "launcher:1",
        }}))]
    );
    let status = object.status.as_mut().unwrap();
    status.active_pods = [("p1".to_owned(), "n1".to_owned())].into();
    status.launcher_container_image_version = Some("launcher:1".into());
    assert_eq!(decide(&inputs(object, &["ready"]), at(NOW)), Decision::default());
}

#[test]
fn a_failed_write_is_told_once() {
    let mut object = vmi("Pending", json!({}));
    let patch = super::on_failure(&object, "FailedCreate", "quota exceeded", at(NOW)).unwrap();
    let conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
    object.status.as_mut().unwrap().conditions = conditions;
    assert_eq!(super::on_failure(&object, "FailedCreate", "quota exceeded", at(NOW + 5)), None);
    assert_eq!(object.status.unwrap().phase, VmiPhase::Pending);
}
