//! Worlds as JSON, views as values.

use serde_json::{Value, json};

use super::{Outcome, Row, Seen, view};

/// Two operators, three handlers of five updated, and what the status says.
fn seen(generation: i64, status: Value, pods: &[(&str, &str, &str)]) -> Seen {
    let deployment = |name: &str, replicas: i32, image: &str| {
        json!({
            "metadata": {"name": name, "generation": 1},
            "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": [{"name": name, "image": image}]}}},
            "status": {"observedGeneration": 1, "updatedReplicas": replicas, "replicas": replicas},
        })
    };
    let pod = |(component, age, ready): &(&str, &str, &str)| {
        let release = if *age == "old" { "v0.17.0" } else { "v0.18.0" };
        json!({
            "metadata": {"name": "p", "labels": {"kubevirt.io": component}},
            "spec": {"containers": [{"name": component, "image": format!("r/{component}:{release}")}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    let operator = "localhost/kubevirt/virt-operator:v0.18.0";
    let deployments = json!([
        deployment("virt-operator", 2, operator),
        deployment("virt-controller", 2, "c"),
        deployment("virt-api", 2, "a")
    ]);
    let daemon_sets = json!([{
        "metadata": {"name": "virt-handler"},
        "status": {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2},
    }]);
    let kubevirt =
        json!({"metadata": {"name": "kubevirt", "generation": generation}, "spec": {}, "status": status});
    Seen {
        kubevirt: serde_json::from_value(kubevirt).unwrap(),
        deployments: serde_json::from_value(deployments).unwrap(),
        daemon_sets: serde_json::from_value(daemon_sets).unwrap(),
        pods: pods.iter().map(|spec| serde_json::from_value(pod(spec)).unwrap()).collect(),
    }
}

fn status(observed: (&str, i64), target: &str, conditions: &[(&str, &str, &str)]) -> Value {
    let release = |id: &str| if id == "old" { "v0.17.0" } else { "v0.18.0" };
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(type_, status, message)| json!({"type": type_, "status": status, "message": message}))
        .collect();
    json!({
        "operatorVersion": "v0.18.0", "observedGeneration": observed.1, "conditions": conditions,
        "observedKubeVirtVersion": release(observed.0), "observedDeploymentID": observed.0,
        "targetKubeVirtVersion": release(target), "targetKubeVirtRegistry": "r", "targetDeploymentID": target,
    })
}

const GOOD: [(&str, &str, &str); 3] =
    [("Available", "True", "ok"), ("Progressing", "False", "ok"), ("Degraded", "False", "ok")];

#[test]
fn an_update_on_its_way() {
    let message = "Transitioning from previous version v0.17.0 with registry r to target version v0.18.0 using \
                   registry r: waiting for virt-handler (1 of 2 ready); reports of a";
    let conditions =
        [("Available", "True", message), ("Progressing", "True", message), ("Degraded", "True", message)];
    let pods = [
        ("virt-handler", "new", "True"),
        ("virt-handler", "new", "False"),
        ("virt-handler", "old", "True"),
        ("virt-controller", "old", "True"),
        ("virt-controller", "old", "True"),
    ];
    let view = view(&seen(2, status(("old", 1), "new", &conditions), &pods));
    assert_eq!(view.title, "KubeVirt v0.17.0 -> v0.18.0");
    assert_eq!(view.waiting, ["virt-handler (1 of 2 ready)", "reports of a"]);
    assert_eq!(view.outcome, Outcome::GoingOn);
    let row = |component, updated, old| Row { component, updated, wanted: 2, old };
    assert_eq!(view.rows, [row("virt-handler", 1, 1), row("virt-controller", 0, 2), row("virt-api", 0, 0)]);
}

#[test]
fn done_only_when_the_present_spec_is_carried_out() {
    let arrived = status(("new", 2), "new", &GOOD);
    assert_eq!(view(&seen(2, arrived.clone(), &[])).outcome, Outcome::Done);
    // Just patched: the operator has not looked yet.
    let patched = view(&seen(3, arrived.clone(), &[]));
    assert_eq!(
        (patched.outcome, patched.waiting),
        (Outcome::GoingOn, vec!["virt-operator to look at the change".into()])
    );
}

#[test]
fn a_new_operator_that_has_not_taken_over_is_waited_for() {
    let mut arrived = status(("old", 2), "old", &GOOD);
    arrived["operatorVersion"] = json!("v0.17.0");
    let taking_over = view(&seen(2, arrived, &[]));
    assert_eq!(taking_over.outcome, Outcome::GoingOn);
    assert_eq!(taking_over.waiting, ["virt-operator v0.18.0 to take over from v0.17.0"]);
    let mut rolling = seen(2, status(("old", 2), "old", &GOOD), &[]);
    rolling.deployments[0].status.as_mut().unwrap().updated_replicas = Some(1);
    assert_eq!(view(&rolling).waiting, ["virt-operator to be replaced (1 of 2)"]);
}

#[test]
fn what_the_operator_gave_up_is_failing_with_its_words() {
    let conditions = [("Progressing", "False", "x"), ("Degraded", "True", "no image v9.9.9")];
    let view = view(&seen(2, status(("old", 1), "new", &conditions), &[]));
    assert_eq!(view.outcome, Outcome::Failing("no image v9.9.9".into()));
}

fn failed(action: &str) -> Value {
    json!({
        "deploymentID": "new", "version": "v0.18.0", "component": "virt-handler", "node": "a", "cause": "pod h crashes",
        "at": "2026-01-01T00:00:00Z", "action": action,
    })
}

#[test]
fn a_version_that_fails_is_seen_to_go_and_then_is_a_failure() {
    let message =
        "Transitioning from previous version v0.18.0 to target version v0.17.0: waiting for another try";
    let mut returning =
        status(("old", 1), "old", &[("Progressing", "True", message), ("Degraded", "True", message)]);
    returning["failedUpdate"] = failed("Rollback");
    let pods = [("virt-handler", "new", "False"), ("virt-handler", "old", "True")];
    let shown = view(&seen(2, returning.clone(), &pods));
    assert_eq!(shown.title, "KubeVirt v0.18.0 failed, back to v0.17.0");
    assert_eq!((shown.outcome, shown.waiting), (Outcome::GoingOn, vec!["another try".into()]));
    assert_eq!(shown.rows[0], Row { component: "virt-handler", updated: 1, wanted: 2, old: 1 });

    returning["conditions"] =
        json!([{"type": "Progressing", "status": "False"}, {"type": "Degraded", "status": "True"}]);
    let expected = "v0.18.0 failed, and v0.17.0 is back: pod h crashes; virtctl update retry tries again";
    assert_eq!(view(&seen(2, returning.clone(), &[])).outcome, Outcome::Failed(expected.into()));

    let mut retried = seen(2, returning.clone(), &[]);
    retried.kubevirt.metadata.annotations =
        Some([("kubevirt.io/retry-update".to_owned(), "now".to_owned())].into());
    assert!(!matches!(view(&retried).outcome, Outcome::Failed(_)), "another try was asked for");
    let mut another = seen(2, returning, &[]);
    another.kubevirt.spec.image_tag = Some("v0.17.0".into());
    assert!(!matches!(view(&another).outcome, Outcome::Failed(_)), "another version was asked for");
}

#[test]
fn a_pause_is_a_failure_with_its_place() {
    let mut paused = status(("old", 1), "new", &[("Progressing", "False", "x"), ("Degraded", "True", "x")]);
    paused["failedUpdate"] = failed("Pause");
    let shown = view(&seen(2, paused, &[]));
    assert_eq!(shown.title, "KubeVirt v0.17.0 -> v0.18.0");
    let expected = "v0.18.0 failed, and the update is paused at virt-handler: pod h crashes; virtctl update retry tries again";
    assert_eq!(shown.outcome, Outcome::Failed(expected.into()));
}

#[test]
fn settings_that_fail_have_no_other_version_to_go_back_to() {
    let mut returning = status(("old", 1), "old", &[("Progressing", "True", "x")]);
    returning["failedUpdate"] = failed("Rollback");
    returning["failedUpdate"]["version"] = json!("v0.17.0");
    let shown = view(&seen(2, returning, &[]));
    assert_eq!(shown.title, "KubeVirt v0.17.0: the change failed, back to what ran before");
}
