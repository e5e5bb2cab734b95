//! What a decision about a migration writes, field by field.

use std::sync::Arc;

use kubevirt_types::migration::MigrationState;
use serde_json::{Value, json};

use super::tests::{NOW, at, inputs};
use super::{decide, is_refused, on_failure};
use crate::decision::{Action, Decision};

#[test]
fn the_state_replaces_that_of_an_earlier_migration() {
    let inputs = inputs("Scheduled", "labelled another addressed started failed", &["source", "target"]);
    let decision = decide(&inputs, at(NOW));
    let [Action::PatchVmiStatus { patch, .. }] = &decision.actions[..] else { panic!("{decision:?}") };
    let mut status = serde_json::to_value(inputs.vmi.unwrap().status.clone().unwrap()).unwrap();
    merge(&mut status, &patch["status"]);
    let state: MigrationState = serde_json::from_value(status["migrationState"].clone()).unwrap();
    let expected = MigrationState {
        migration_uid: "m1".into(),
        source_node: "n1".into(),
        source_pod: "source".into(),
        target_node: "n2".into(),
        target_pod: "target".into(),
        migration_configuration: Some(inputs.limits.clone()),
        ..MigrationState::default()
    };
    assert_eq!(state, expected);
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
            value => merge(&mut target[key], value),
        }
    }
}

#[test]
fn a_refused_pod_is_told_once() {
    let inputs = inputs("Pending", "", &["source"]);
    let patch = on_failure(&inputs.migration, "FailedCreate", "quota exceeded", at(NOW)).unwrap();
    let mut object = (*inputs.migration).clone();
    let status = object.status.as_mut().unwrap();
    status.conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
    assert!(is_refused(&object));
    assert_eq!(on_failure(&object, "FailedCreate", "quota exceeded", at(NOW + 5)), None);
}

#[test]
fn what_is_told_after_the_end_is_kept_too() {
    let mut inputs = inputs("Running", "known started completed", &["target"]);
    let mut migration = serde_json::to_value(&*inputs.migration).unwrap();
    let decision = decide(&inputs, at(NOW));
    let Some(Action::PatchStatus(patch)) = decision.actions.first() else { panic!("{decision:?}") };
    merge(&mut migration["status"], &patch["status"]);
    migration["metadata"]["finalizers"] = json!([]);
    inputs.migration = Arc::new(serde_json::from_value(migration).unwrap());
    assert_eq!(decide(&inputs, at(NOW)), Decision::default());

    let mut vmi = (**inputs.vmi.as_ref().unwrap()).clone();
    let state = vmi.status.as_mut().unwrap().migration_state.as_mut().unwrap();
    state.downtime_milliseconds = Some(41);
    inputs.vmi = Some(Arc::new(vmi));
    assert_eq!(
        decide(&inputs, at(NOW)).actions,
        [Action::PatchStatus(json!({"status": {"migrationState": {"downtimeMilliseconds": 41}}}))]
    );
}
