//! Nodes that fall silent, go, and come back: what is said of their instances, and when those have ended.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::moves_tests::{launcher, moving};
use super::node::{Health, NodeSeen};
use super::tests::{NOW, at, deleting, inputs, vmi};
use super::{Inputs, decide};
use crate::decision::Action;

/// n1, in words: `silent`, `young` (silent since a moment), `deaf` (the kubelet is silent and virt-handler isn't),
/// `handlerless` (the other way round), `off` and `silent-off` (out of service), `gone`.
fn node(described: &str) -> NodeSeen {
    let (ready, since, heartbeat) = match described {
        "well" | "off" => ("True", 9000, Some(10)),
        "silent" | "silent-off" => ("Unknown", 400, Some(440)),
        "young" => ("Unknown", 5, Some(50)),
        "deaf" => ("Unknown", 400, Some(10)),
        "handlerless" => ("True", 9000, Some(9000)),
        "never-heard" => ("False", 10, None),
        "gone" => return NodeSeen::of(Some("n1"), None, None),
        other => panic!("{other}"),
    };
    let mut node = json!({
        "metadata": {"name": "n1"},
        "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": at(NOW - since).to_string()},
        ]},
    });
    if described.ends_with("off") {
        node["spec"] = json!({"taints": [
            {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"},
        ]});
    }
    let node: Node = serde_json::from_value(node).unwrap();
    NodeSeen::of(Some("n1"), Some(&node), heartbeat.map(|ago| at(NOW - ago)))
}

fn on(described: &str, inputs: Inputs) -> Inputs {
    Inputs { node: node(described), ..inputs }
}

/// What is decided: the phase if it changes, the reason of Ready, whom is told, whether a pod is made or deleted.
fn words(inputs: &Inputs) -> String {
    let decision = decide(inputs, at(NOW));
    let words = decision.actions.iter().filter_map(|action| match action {
        Action::PatchStatus(patch) => {
            let status = &patch["status"];
            let ready = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
            let reason = ready.and_then(|ready| ready["reason"].as_str()).unwrap_or_default();
            let phase = status["phase"].as_str().unwrap_or_default();
            Some(format!("{phase} {reason}").trim().to_owned()).filter(|words| !words.is_empty())
        }
        Action::Tell(news) => Some(format!("tell {}", news.reason)),
        Action::CreatePod(_) => Some("create pod".to_owned()),
        Action::DeletePod { .. } => Some("delete pod".to_owned()),
        Action::CreateMigration(_) => Some("migrate".to_owned()),
        Action::Patch(_)
        | Action::CreateVmi(_)
        | Action::DeleteVmi { .. }
        | Action::PatchVmi { .. }
        | Action::PatchVmiStatus { .. }
        | Action::DeleteMigration { .. } => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_said_of_an_instance() {
    let unheard = "NodeUnresponsive, tell NodeUnresponsive";
    let gone = "Failed LauncherPodGone";
    let lost = "Failed NodeUnresponsive";
    for (node, phase, pods, expected) in [
        ("well", "Running", &["ready"][..], ""),
        ("silent", "Running", &["ready"], unheard),
        ("silent", "Scheduled", &["ready"], unheard),
        ("silent", "Unknown", &["ready"], unheard),
        // The node controller says that its pods aren't ready, the taint manager deletes them: nobody knows more.
        ("silent", "Running", &["starting"], unheard),
        ("silent", "Running", &["terminating"], unheard),
        // The garbage collector calls a pod failed before it removes it, and didn't see its container end.
        ("silent", "Running", &["lost"], unheard),
        // Its virt-handler may speak until the garbage collector has come: it isn't contradicted.
        ("gone", "Running", &["terminating"], ""),
        ("gone", "Running", &["lost"], ""),
        ("silent-off", "Running", &["terminating"], unheard),
        ("never-heard", "Running", &["ready"], unheard),
        ("young", "Running", &["ready"], ""),
        ("deaf", "Running", &["ready"], ""),
        ("handlerless", "Running", &["ready"], ""),
        ("off", "Running", &["ready"], ""),
        // The pod is gone: removed with its node, because of the taint, or by somebody who says that it is over.
        ("gone", "Running", &[], "NodeDeleted"),
        ("gone", "Scheduled", &[], "NodeDeleted"),
        ("silent-off", "Running", &[], lost),
        ("off", "Running", &[], lost),
        ("silent", "Running", &[], lost),
        ("silent", "Scheduled", &[], lost),
        ("young", "Running", &[], gone),
        ("deaf", "Running", &[], gone),
        ("well", "Running", &[], gone),
        // The kubelet has said how its containers ended.
        ("silent", "Running", &["failed"], "Failed LauncherPodFailed"),
        ("gone", "Running", &["failed"], "Failed LauncherPodFailed"),
        // What has ended isn't spoken of any more, and what isn't handed over is the scheduler's.
        ("silent", "Failed", &[], ""),
        ("silent", "Scheduling", &["starting"], "GuestNotRunning"),
    ] {
        let inputs = on(node, inputs(vmi(phase, json!({})), pods));
        assert_eq!(words(&inputs), expected, "{node} {phase} {pods:?}");
        let decision = decide(&inputs, at(NOW));
        assert!(expected.is_empty() || decision.confirm || pods == ["failed"] || phase == "Scheduling");
    }
}

#[test]
fn it_is_said_once_and_the_phase_stays() {
    let first = on("silent", inputs(vmi("Running", json!({})), &["starting"]));
    let mut object = serde_json::to_value(&*first.vmi).unwrap();
    for action in decide(&first, at(NOW)).actions {
        if let Action::PatchStatus(patch) = action {
            json_patch::merge(&mut object["status"], &patch["status"]);
        }
    }
    assert_eq!(object["status"]["phase"], "Running");
    let ready = &object["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("False")));
    assert_eq!(ready["message"], format!("node n1 is silent since {}", at(NOW - 400)));
    let again = on("silent", inputs(serde_json::from_value(object.clone()).unwrap(), &["starting"]));
    assert!(
        decide(&again, at(NOW + 60)).actions.is_empty(),
        "said again: {:?}",
        decide(&again, at(NOW + 60))
    );
    // virt-handler takes it back: it isn't taken from it while it is heard.
    object["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let back = on("deaf", inputs(serde_json::from_value(object).unwrap(), &["ready"]));
    assert!(decide(&back, at(NOW)).actions.is_empty());
}

#[test]
fn a_guest_on_a_machine_that_is_well_has_its_grace_when_its_node_is_deleted() {
    let applied = |inputs: &Inputs, seconds: i64| {
        let mut object = serde_json::to_value(&*inputs.vmi).unwrap();
        let decision = decide(inputs, at(NOW + seconds));
        for action in &decision.actions {
            if let Action::PatchStatus(patch) = action {
                json_patch::merge(&mut object["status"], &patch["status"]);
            }
        }
        (object, decision.requeue_after.map(|after| after.as_secs()))
    };
    let on = |described: &str, object: &serde_json::Value| {
        on(described, inputs(serde_json::from_value(object.clone()).unwrap(), &[]))
    };
    let first = serde_json::to_value(vmi("Running", json!({}))).unwrap();
    let (waits, again) = applied(&on("gone", &first), 0);
    let grace = u64::try_from(crate::launcher::pod_grace_seconds(&vmi("Running", json!({})))).unwrap() + 10;
    assert_eq!((&waits["status"]["phase"], again), (&json!("Running"), Some(grace)));
    // Later it is still so, whoever leads, also when the machine's kubelet has made its node anew.
    for node in ["gone", "well", "young"] {
        let (same, again) = applied(&on(node, &waits), 20);
        assert_eq!((&same, again), (&waits, Some(grace - 20)), "{node}");
        let (ended, _) = applied(&on(node, &waits), i64::try_from(grace).unwrap());
        assert_eq!(ended["status"]["phase"], "Failed", "{node}");
    }
    // Nothing was known of it before: waiting would tell nothing.
    let (unheard, _) = applied(&on("silent", &first), 0);
    assert_eq!(unheard["status"]["phase"], "Failed");
    let mut silent = first;
    silent["status"]["conditions"] =
        json!([{"type": "Ready", "status": "False", "reason": "NodeUnresponsive"}]);
    let (ended, _) = applied(&on("gone", &silent), 0);
    assert_eq!(
        (&ended["status"]["phase"], &ended["status"]["reason"]),
        (&json!("Failed"), &json!("NodeUnresponsive"))
    );
}

#[test]
fn a_node_that_falls_silent_is_looked_at_again() {
    let young = on("young", inputs(vmi("Running", json!({})), &["ready"]));
    assert_eq!(decide(&young, at(NOW)).requeue_after.unwrap().as_secs(), 50);
    assert!(matches!(node("young").health(None, at(NOW + 50)), Health::Unheard(_)));
    let well = on("well", inputs(vmi("Running", json!({})), &["ready"]));
    assert_eq!(decide(&well, at(NOW)).requeue_after, None);
}

#[test]
fn an_instance_that_is_deleted_waits_for_its_pods_end() {
    let asked = deleting(NOW - 3600);
    for (node, pods, expected) in [
        ("silent", &["ready"][..], "delete pod"),
        ("silent", &["terminating"], ""),
        ("gone", &["lost"], "delete pod"),
        ("silent", &[], "Succeeded Deleted"),
        // Its guest may have a while yet.
        ("gone", &[], "NodeDeleted"),
    ] {
        let inputs = on(node, inputs(vmi("Running", asked.clone()), pods));
        assert_eq!(words(&inputs), expected, "{node} {pods:?}");
        let finalizers = |action: &Action| matches!(action, Action::Patch(patch) if patch.pointer("/metadata/finalizers").is_some());
        let let_go = decide(&inputs, at(NOW)).actions.iter().any(finalizers);
        assert_eq!(let_go, expected == "Succeeded Deleted", "{node} {pods:?}");
    }
}

#[test]
fn a_node_that_is_lost_during_a_migration_ends_no_guest_that_may_be_elsewhere() {
    let unheard = "NodeUnresponsive, tell NodeUnresponsive";
    for (node, described, pods, expected) in [
        // The source's.
        ("silent", "begun", &["source ready", "target ready"][..], unheard),
        ("silent", "begun", &["source terminating", "target ready"], unheard),
        ("silent", "begun", &["target ready"], unheard),
        ("gone", "begun", &["target ready"], ""),
        ("gone", "begun", &["target starting"], ""),
        // Both are gone, or the target has ended without the guest.
        ("gone", "begun", &[], "NodeDeleted"),
        ("gone", "begun", &["target failed"], "NodeDeleted"),
        ("gone", "begun", &["target shutdown"], "Succeeded LauncherPodSucceeded"),
        // It has failed before that: the guest was at the source.
        ("gone", "failed unlabelled", &["target ready"], "NodeDeleted, delete pod"),
        // The target's, of which the instance's own node knows nothing: its source goes on.
        ("well", "begun", &["source ready", "target terminating"], ""),
        ("well", "begun", &["source ready", "target lost"], ""),
        ("well", "begun", &["source ready"], ""),
    ] {
        let mut inputs = on(node, moving("Running", described, json!({})));
        inputs.pods = pods.iter().map(|pod| Arc::new(launcher(pod))).collect();
        assert_eq!(words(&inputs), expected, "{node} {described} {pods:?}");
    }
}

#[test]
fn who_speaks_before_its_heartbeat_comes_is_not_contradicted() {
    let said = |ready: serde_json::Value| {
        let mut object = serde_json::to_value(vmi("Running", json!({}))).unwrap();
        object["status"]["conditions"] = json!([ready]);
        on("silent", inputs(serde_json::from_value(object).unwrap(), &["ready"]))
    };
    let probed = |ago: i64| at(NOW - ago).to_string();
    for (ready, expected) in [
        (json!({"type": "Ready", "status": "True", "lastTransitionTime": probed(1)}), ""),
        // Back, and paused: what changed isn't the status, but the reason.
        (
            json!({"type": "Ready", "status": "False", "reason": "PausedByUser", "lastProbeTime": probed(1),
                "lastTransitionTime": probed(300)}),
            "",
        ),
        (
            json!({"type": "Ready", "status": "True", "lastTransitionTime": probed(441)}),
            "NodeUnresponsive, tell NodeUnresponsive",
        ),
    ] {
        assert_eq!(words(&said(ready.clone())), expected, "{ready}");
    }
    // It is looked at again when that word is old, too.
    let back = said(json!({"type": "Ready", "status": "True", "lastTransitionTime": probed(1)}));
    assert_eq!(decide(&back, at(NOW)).requeue_after.unwrap().as_secs(), 99);
    assert_eq!(NodeSeen::of(Some(""), None, None), NodeSeen::None);
}
