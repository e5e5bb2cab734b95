//! Instances that move: which launcher counts, what is said of a migration, and what is cleaned up.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::labels;
use serde_json::{Value, json};

use super::tests::{NOW, at, deleting, pod, told, vmi};
use super::{Inputs, decide};
use crate::decision::Action;

/// `source` or `target`, in a state that the fixture of pods knows, or `migrated`, `shutdown`.
pub(super) fn launcher(described: &str) -> Pod {
    let (name, state) = described.split_once(' ').unwrap();
    let (state, reason) = match state {
        "migrated" => ("succeeded", Some("Migrated")),
        "shutdown" => ("succeeded", Some("GuestShutdown")),
        "killed" => ("failed", Some("Killed")),
        "crashed" => ("failed", Some("QemuCrashed")),
        state => (state, None),
    };
    let mut pod = serde_json::to_value(pod(state)).unwrap();
    if let Some(reason) = reason {
        // Both ended a minute ago: virt-handler has had its time.
        let ended = &mut pod["status"]["containerStatuses"][0]["state"]["terminated"];
        ended["message"] = json!(json!({ "reason": reason }).to_string());
        ended["finishedAt"] = json!(at(NOW - 60).to_string());
    }
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["uid"] = json!(format!("{name}-uid"));
    if name == "target" {
        pod["metadata"]["labels"] = json!({labels::MIGRATION_UID: "m1"});
        pod["spec"]["nodeName"] = json!("n2");
    }
    serde_json::from_value(pod).unwrap()
}

/// The instance with a migration's state, in words.
pub(super) fn moving(phase: &str, described: &str, metadata: Value) -> Inputs {
    let mut object = serde_json::to_value(vmi(phase, metadata)).unwrap();
    let mut state = json!({
        "migrationUid": "m1", "sourceNode": "n1", "sourcePod": "source", "targetNode": "n2",
        "targetPod": "target",
    });
    object["metadata"]["labels"][labels::MIGRATION_TARGET_NODE] = json!("n2");
    let mut migrations = vec![json!({
        "metadata": {"name": "move", "namespace": "ns", "uid": "m1"}, "spec": {"vmiName": "vm1"},
        "status": {"phase": "Running"},
    })];
    let mut ended = |state: &mut Value, what: &str, ago: i64| {
        state[what] = json!(true);
        state["endTimestamp"] = json!(at(NOW - ago).to_string());
        if let Some(migration) = migrations.first_mut() {
            migration["status"]["phase"] = json!(if what == "completed" { "Succeeded" } else { "Failed" });
        }
    };
    let mut without = false;
    for word in described.split_whitespace() {
        match word {
            "begun" => {}
            "stateless" => state = Value::Null,
            "completed" | "completed-long-ago" => {
                ended(&mut state, "completed", if word == "completed" { 10 } else { 60 });
                object["status"]["nodeName"] = json!("n2");
            }
            "just-completed" => {
                ended(&mut state, "completed", 2);
                object["status"]["nodeName"] = json!("n2");
            }
            "timed" => state["downtimeMilliseconds"] = json!(100),
            "started" => state["startTimestamp"] = json!(at(NOW - 90).to_string()),
            "addressed" => state["targetNodeAddress"] = json!("10.0.0.2"),
            missing if missing.starts_with("missing-") => {
                let ago: i64 = missing["missing-".len()..].parse().unwrap();
                state["targetPodMissingTimestamp"] = json!(at(NOW - ago).to_string());
            }
            "failed" => ended(&mut state, "failed", 10),
            "failed-long-ago" => ended(&mut state, "failed", 60),
            "relabelled" => object["metadata"]["labels"][labels::NODE_NAME] = json!("n2"),
            "unlabelled" => {
                object["metadata"]["labels"].as_object_mut().unwrap().remove(labels::MIGRATION_TARGET_NODE);
            }
            "orphaned" => without = true,
            "drained" => {
                object["spec"]["evictionStrategy"] = json!("LiveMigrate");
                object["status"]["evacuationNodeName"] = json!("n1");
                object["status"]["conditions"] = json!([{"type": "LiveMigratable", "status": "True"}]);
            }
            "indifferent" => object["spec"]["evictionStrategy"] = json!("None"),
            "fixed" => object["status"]["conditions"][0]["status"] = json!("False"),
            other => panic!("{other}"),
        }
    }
    object["status"]["migrationState"] = state;
    if without {
        migrations.clear();
    }
    let migrations = migrations.into_iter().map(|m| Arc::new(serde_json::from_value(m).unwrap())).collect();
    Inputs {
        vmi: Arc::new(serde_json::from_value(object).unwrap()),
        migrations,
        ..super::tests::inputs(vmi(phase, json!({})), &[])
    }
}

/// What is decided, with the fields of the migration's state that it writes.
fn words(inputs: &Inputs) -> String {
    let decision = decide(inputs, at(NOW));
    assert_eq!(decide(inputs, at(NOW)), decision);
    let state = decision.actions.iter().find_map(|action| match action {
        Action::PatchStatus(patch) => {
            let state = patch.pointer("/status/migrationState")?.as_object()?;
            Some(state.keys().cloned().collect::<Vec<_>>().join("+"))
        }
        _ => None,
    });
    let told = told(&decision).split(", ").filter(|word| *word != "status").collect::<Vec<_>>().join(", ");
    [state.unwrap_or_default(), told]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

const GONE: &str = "endTimestamp+failed+failureReason";

#[test]
fn which_launcher_counts() {
    let table: &[(&str, &[&str], String)] = &[
        ("begun", &["source ready", "target ready"], String::new()),
        ("begun", &["source ready", "target starting"], String::new()),
        // The source's end is none while the target may have the guest, which only its launcher knows.
        ("started", &["source migrated", "target ready"], String::new()),
        ("started", &["source killed", "target ready"], "abortRequested, confirm".into()),
        ("addressed", &["source killed", "target ready"], "abortRequested, confirm".into()),
        ("addressed", &["source succeeded", "target ready"], "look in 5 s".into()),
        ("addressed", &["target ready"], "abortRequested, confirm".into()),
        // It can't have it. That the instance has ended is the next look's, once that is written.
        ("begun", &["source killed", "target ready"], format!("{GONE}, confirm")),
        ("failed unlabelled", &["source killed"], "-> Failed, confirm".into()),
        ("begun", &["source succeeded", "target ready"], "look in 5 s".into()),
        ("begun", &["target ready"], String::new()),
        // The guest was there and shut itself down.
        ("begun", &["source shutdown", "target ready"], format!("{GONE}, -> Succeeded, confirm")),
        ("addressed", &["source shutdown", "target ready"], "abortRequested, -> Succeeded, confirm".into()),
        // Both have ended.
        ("begun", &["source migrated", "target migrated"], format!("{GONE}, -> Succeeded, confirm")),
        ("begun", &["source migrated", "target failed"], format!("{GONE}, -> Failed, confirm")),
        ("begun", &["source killed", "target crashed"], format!("{GONE}, -> Failed, confirm")),
        ("begun", &["source migrated"], format!("{GONE}, -> Failed, confirm")),
        ("begun", &["target crashed"], format!("{GONE}, -> Failed, confirm")),
        // The guest ran at the target and shut itself down there, and nobody came to say so. The
        // source isn't told that its target is gone: it would let the guest run again.
        ("begun", &["source ready", "target shutdown"], "-> Succeeded, confirm".into()),
        ("begun", &["source killed", "target shutdown"], format!("{GONE}, -> Succeeded, confirm")),
        ("begun", &["source migrated", "target shutdown"], format!("{GONE}, -> Succeeded, confirm")),
        ("begun", &["target shutdown"], format!("{GONE}, -> Succeeded, confirm")),
        ("begun", &[], format!("{GONE}, -> Failed, confirm")),
        // virt-handler at the target has ten seconds to say how it ended.
        ("begun", &["source migrated", "target succeeded"], "look in 5 s, confirm".into()),
        // The source waits for this word.
        ("begun", &["source ready", "target succeeded"], format!("{GONE}, confirm")),
        ("begun", &["source ready", "target failed"], format!("{GONE}, confirm")),
        ("begun", &["source ready"], format!("{GONE}, confirm")),
        // A node that can't be asked.
        ("begun", &["source ready", "target lost"], String::new()),
        ("completed relabelled unlabelled", &["source migrated", "target ready"], String::new()),
        (
            "completed relabelled unlabelled",
            &["source migrated", "target shutdown"],
            "-> Succeeded, confirm".into(),
        ),
        (
            "completed relabelled unlabelled",
            &["source migrated", "target failed"],
            "-> Failed, confirm".into(),
        ),
        ("completed relabelled unlabelled", &["source ready"], "-> Failed, confirm".into()),
        ("failed unlabelled", &["source ready"], String::new()),
        ("failed unlabelled", &["source shutdown"], "-> Succeeded, confirm".into()),
        ("failed unlabelled", &["source failed"], "-> Failed, confirm".into()),
        // The target's pod is written off, and had the guest all the same.
        ("failed unlabelled", &["source migrated", "target failed"], "-> Failed, confirm".into()),
        ("failed unlabelled", &["target ready"], "-> Failed, confirm".into()),
    ];
    for (described, pods, expected) in table {
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = pods.iter().map(|described| Arc::new(launcher(described))).collect();
        assert_eq!(words(&inputs), *expected, "{described} with {pods:?}");
    }
}

/// Its node's object was deleted, or somebody forced the pod: its kubelet gives it 45 s, and we ten more.
#[test]
fn what_runs_at_a_target_whose_pod_is_gone_has_its_grace() {
    let gone = format!("{GONE}, confirm");
    let table: &[(&str, &[&str], &str)] = &[
        ("started", &["source ready"], "targetPodMissingTimestamp, look in 55 s, confirm"),
        ("addressed", &["source ready"], "targetPodMissingTimestamp, look in 55 s, confirm"),
        // Another leader goes on with it.
        ("started missing-54", &["source ready"], "look in 1 s, confirm"),
        ("started missing-55", &["source ready"], &gone),
        // No other instance is started beside a guest that may have come there.
        ("started missing-54", &["source migrated"], "look in 1 s, confirm"),
        ("started missing-54", &["source crashed"], "look in 1 s, confirm"),
        ("started missing-54", &[], "look in 1 s, confirm"),
        ("started missing-55", &["source migrated"], &format!("{GONE}, -> Failed, confirm")),
        ("started missing-55", &[], &format!("{GONE}, -> Failed, confirm")),
        // The guest ended where it began.
        ("started missing-20", &["source shutdown"], "-> Succeeded, look in 35 s, confirm"),
        // A cache that lagged; and a kubelet that has told the end after all.
        ("started missing-20", &["source ready", "target ready"], "targetPodMissingTimestamp"),
        (
            "started missing-20",
            &["source ready", "target failed"],
            "targetPodMissingTimestamp+endTimestamp+failed+failureReason, confirm",
        ),
        // Nobody can have told the source to begin.
        ("begun", &["source ready"], &gone),
    ];
    for (described, pods, expected) in table {
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = pods.iter().map(|described| Arc::new(launcher(described))).collect();
        assert_eq!(words(&inputs), *expected, "{described} with {pods:?}");
    }
    // Of an instance that is deleted meanwhile the name isn't free before.
    let deleted = |described| words(&moving("Running", described, deleting(NOW - 10)));
    assert_eq!(deleted("started missing-54"), "look in 1 s, confirm");
    assert!(deleted("started missing-55").contains("finalizer"), "{}", deleted("started missing-55"));
}

#[test]
fn a_source_is_never_told_to_go_on_with_a_guest_that_shut_down() {
    let table: &[(&[&str], &str)] = &[
        (&["source ready", "target shutdown"], "delete pod, confirm"),
        (&["source terminating", "target shutdown"], "confirm"),
        (&["source failed", "target shutdown"], "endTimestamp+failed+failureReason, confirm"),
    ];
    for (pods, expected) in table {
        let mut inputs = moving("Succeeded", "begun", json!({}));
        inputs.pods = pods.iter().map(|described| Arc::new(launcher(described))).collect();
        assert_eq!(words(&inputs), *expected, "{pods:?}");
    }
}

#[test]
fn what_is_cleaned_up() {
    let both: &[&str] = &["source ready", "target ready"];
    let table: &[(&str, &[&str], &str)] = &[
        // The label follows the guest at once, the other goes after a minute.
        ("completed", both, "labels, look in 50 s"),
        // The source's virt-handler has yet to say how long the guest stood.
        ("just-completed", both, "look in 3 s"),
        ("just-completed timed", both, "labels, look in 58 s"),
        ("completed relabelled", both, "look in 50 s"),
        ("completed-long-ago relabelled", both, "labels, delete pod, confirm"),
        ("completed-long-ago relabelled unlabelled", both, "delete pod, confirm"),
        ("completed-long-ago relabelled unlabelled", &["source terminating", "target ready"], ""),
        ("completed-long-ago relabelled unlabelled", &["target ready"], ""),
        ("failed", both, "look in 50 s, delete pod, confirm"),
        ("failed unlabelled", &["source ready"], ""),
        ("failed-long-ago", &["source ready"], "labels, confirm"),
        // A target whose migration hasn't introduced it yet, and one without a migration.
        ("stateless", both, ""),
        ("stateless orphaned", both, "labels, delete pod, confirm"),
        // virt-handler at the target finds the instance by it.
        ("begun unlabelled", both, "labels"),
        // The migration is gone: nobody else would end this.
        ("begun orphaned", both, "abortRequested, confirm"),
    ];
    for (described, pods, expected) in table {
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = pods.iter().map(|described| Arc::new(launcher(described))).collect();
        let mut expected: Vec<&str> = expected.split(", ").collect();
        let words = words(&inputs);
        let mut words: Vec<&str> = words.split(", ").collect();
        expected.sort_unstable();
        words.sort_unstable();
        assert_eq!(words, expected, "{described} with {pods:?}");
    }
}

#[test]
fn the_image_is_that_of_the_launcher_that_has_the_guest() {
    let image = |described: &str| {
        let mut target = launcher("target ready");
        target.spec.as_mut().unwrap().containers[0].image = Some("launcher:2".into());
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = vec![Arc::new(target), Arc::new(launcher("source ready"))];
        let decision = decide(&inputs, at(NOW));
        let Some(Action::PatchStatus(patch)) = decision.actions.first() else { panic!("{decision:?}") };
        assert_eq!(patch["status"]["activePods"], json!({"source-uid": "n1", "target-uid": "n2"}));
        patch["status"]["launcherContainerImageVersion"].clone()
    };
    assert_eq!(image("stateless"), "launcher:1");
    assert_eq!(image("begun"), "launcher:1");
    assert_eq!(image("failed"), "launcher:1");
    assert_eq!(image("completed"), "launcher:2");
}

#[test]
fn an_instance_that_is_deleted_aborts_first() {
    let table: &[(i64, &str, &[&str], &str)] = &[
        (10, "begun", &["source ready", "target ready"], "abortRequested, look in 50 s, confirm"),
        // The guest is at the target: its virt-handler shuts it down.
        (10, "completed", &["source migrated", "target ready"], "look in 50 s"),
        (10, "failed", &["source ready"], "look in 50 s"),
        (60, "failed", &["source ready", "target ready"], "delete pod, delete pod"),
        (60, "completed", &["source migrated", "target failed"], "delete pod, delete pod"),
    ];
    for (ago, described, pods, expected) in table {
        let mut inputs = moving("Running", described, deleting(NOW - ago));
        inputs.pods = pods.iter().map(|described| Arc::new(launcher(described))).collect();
        assert_eq!(words(&inputs), *expected, "{described} with {pods:?}");
    }
    let mut aborted = moving("Running", "begun", deleting(NOW - 10));
    let mut object = (*aborted.vmi).clone();
    object.status.as_mut().unwrap().migration_state.as_mut().unwrap().abort_requested = true;
    aborted.vmi = Arc::new(object);
    aborted.pods = ["source migrated", "target ready"].map(|described| Arc::new(launcher(described))).into();
    assert_eq!(words(&aborted), "look in 50 s", "it came too late: the target's virt-handler has its time");
}

#[test]
fn a_drain_asks_for_one_migration_at_a_time() {
    let table: &[(&str, &str)] = &[
        ("failed-long-ago unlabelled drained", "migrate, confirm"),
        ("stateless orphaned unlabelled drained", "migrate, confirm"),
        ("stateless unlabelled drained", ""),
        ("begun drained", ""),
        ("failed-long-ago unlabelled drained indifferent", ""),
        ("failed-long-ago unlabelled drained fixed", ""),
    ];
    for (described, expected) in table {
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = ["source ready", "target succeeded"].map(|p| Arc::new(launcher(p))).into();
        if *described == "begun drained" {
            inputs.pods[1] = Arc::new(launcher("target ready"));
        }
        assert_eq!(words(&inputs), *expected, "{described}");
    }
    // Each has another name, and the same for everybody.
    let name = |described: &str| {
        let mut inputs = moving("Running", described, json!({}));
        inputs.pods = vec![Arc::new(launcher("source ready"))];
        let decision = decide(&inputs, at(NOW));
        let made = decision.actions.into_iter().find_map(|action| match action {
            Action::CreateMigration(migration) => Some(migration),
            _ => None,
        });
        let made = made.unwrap();
        assert_eq!(made.spec.vmi_name, "vm1");
        assert_eq!(made.metadata.annotations.unwrap()[labels::EVACUATION_MIGRATION], "n1");
        made.metadata.name.unwrap()
    };
    let (first, second) = (name("stateless orphaned drained"), name("failed-long-ago drained"));
    assert!(first.starts_with("kubevirt-evacuation-"), "{first}");
    assert_ne!(first, second);
    assert_eq!(second, name("failed-long-ago drained"));
}

#[test]
fn a_drain_that_the_guest_has_left_behind_is_forgotten() {
    let mut inputs = moving("Running", "completed relabelled unlabelled drained", json!({}));
    inputs.pods = vec![Arc::new(launcher("target ready"))];
    let decision = decide(&inputs, at(NOW));
    let Some(Action::PatchStatus(patch)) = decision.actions.first() else { panic!("{decision:?}") };
    assert_eq!(patch["status"]["evacuationNodeName"], Value::Null);
    assert!(patch["status"].as_object().unwrap().contains_key("evacuationNodeName"));
}

#[test]
fn a_target_that_nobody_prepares_is_given_up_while_nobody_can_have_begun() {
    let since = |seconds: i64, fields: Value| {
        let mut inputs = moving("Running", "begun", json!({}));
        inputs.pods = ["source ready", "target ready"].map(|pod| Arc::new(launcher(pod))).into();
        let mut migration = serde_json::to_value(&*inputs.migrations[0]).unwrap();
        migration["status"]["phaseTransitionTimestamps"] = json!([
            {"phase": "Scheduled", "phaseTransitionTimestamp": at(NOW - 9000).to_string()},
            {"phase": "PreparingTarget", "phaseTransitionTimestamp": at(NOW - seconds).to_string()},
        ]);
        inputs.migrations = vec![Arc::new(serde_json::from_value(migration).unwrap())];
        let mut object = serde_json::to_value(&*inputs.vmi).unwrap();
        json_patch::merge(&mut object["status"]["migrationState"], &fields);
        inputs.vmi = Arc::new(serde_json::from_value(object).unwrap());
        let decision = decide(&inputs, at(NOW));
        let state = decision.actions.iter().find_map(|action| match action {
            Action::PatchStatus(patch) => patch.pointer("/status/migrationState").cloned(),
            _ => None,
        });
        let failed = state.is_some_and(|state| state["failed"] == true);
        assert!(!failed || decision.confirm, "a lagging cache could do this");
        (failed, decision.requeue_after.map(|after| after.as_secs()))
    };
    let fingerprint = json!({"sourceCertificateSha256": "ab"});
    let address =
        json!({"sourceCertificateSha256": "ab", "targetNodeAddress": "10.0.0.2", "targetPort": 49152});
    let begun = json!({"startTimestamp": at(NOW - 9000).to_string()});
    for (seconds, fields, expected) in [
        // The source's virt-handler is dead, or the target's.
        (300, json!({}), (true, None)),
        (9000, fingerprint.clone(), (true, None)),
        (299, fingerprint, (false, Some(1))),
        (0, json!({}), (false, Some(300))),
        // Its launcher may have been told to begin.
        (9000, address, (false, None)),
        (9000, begun, (false, None)),
        (9000, json!({"failed": true}), (false, None)),
    ] {
        assert_eq!(since(seconds, fields.clone()), expected, "{seconds} {fields}");
    }
}
