//! Tables: what the world looks like, and what is done.

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{VirtualMachineInstance, VmiPhase};
use serde_json::json;

use super::decide::{Call, Decision, Memory, PodFacts, View, decide};
use super::knowledge::{Domain, DomainState, Knowledge};

pub(super) const NODE: &str = "worker-1";

pub(super) fn now() -> Timestamp {
    "2026-11-23T02:00:00Z".parse().unwrap()
}

pub(super) fn vmi(phase: VmiPhase) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tick", "namespace": "default", "uid": "u-1", "resourceVersion": "7",
            "labels": {"kubevirt.io/nodeName": NODE},
        },
        "spec": {"domain": {"devices": {"interfaces": [
            {"name": "default", "masquerade": {}, "macAddress": "02:00:00:00:00:01"},
        ]}}},
        "status": {"phase": phase, "nodeName": NODE, "activePods": {"pod-1": NODE}},
    }))
    .unwrap()
}

pub(super) fn deleted(
    mut vmi: VirtualMachineInstance,
    seconds_ago: i64,
    grace: i64,
) -> VirtualMachineInstance {
    let at = now() - SignedDuration::from_secs(seconds_ago);
    vmi.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
    vmi.spec.termination_grace_period_seconds = Some(grace);
    vmi
}

fn known(state: DomainState) -> Knowledge {
    Knowledge::Known(Domain::in_state(state))
}

fn silent() -> Knowledge {
    Knowledge::Unreachable { since: now() - SignedDuration::from_hours(5), error: "refused".into() }
}

fn ask(vmi: &VirtualMachineInstance, knowledge: &Knowledge, memory: &Memory) -> Decision {
    let pod = PodFacts { ips: vec!["10.0.0.7".into()], deleting: false };
    decide(View { vmi, node: NODE, knowledge, pod: Some(&pod), memory, now: now() })
}

/// The phase that is written, the call that is made, and the event that people see.
fn outcome(decision: &Decision) -> (Option<VmiPhase>, Option<Call>, Option<&'static str>) {
    (
        decision.status.as_ref().map(|s| s.phase),
        decision.call.clone(),
        decision.notices.first().map(|n| n.reason),
    )
}

#[test]
fn a_vmi_that_nobody_deletes() {
    use DomainState::{Crashed, NotStarted, Paused, Running, Shutoff, ShuttingDown, Starting, Unclear};
    use VmiPhase::{Failed, Pending, Scheduled, Scheduling, Succeeded, Unknown, Unset};
    let table = [
        // Not ours yet.
        (Unset, known(NotStarted), (None, None, None)),
        (Pending, known(NotStarted), (None, None, None)),
        (Scheduling, known(NotStarted), (None, None, None)),
        // The road up.
        (Scheduled, known(NotStarted), (Some(Scheduled), Some(Call::Sync), None)),
        (Scheduled, known(Starting), (None, None, None)),
        (Scheduled, known(Running), (Some(VmiPhase::Running), None, Some("Started"))),
        (Scheduled, known(Paused), (Some(VmiPhase::Running), None, Some("Started"))),
        (Scheduled, known(Crashed), (Some(Failed), None, Some("Stopped"))),
        (Scheduled, known(Shutoff), (Some(Succeeded), None, Some("Stopped"))),
        // Silence is no answer, however long it lasts.
        (Scheduled, Knowledge::Unasked, (None, None, None)),
        (Scheduled, silent(), (None, None, None)),
        (VmiPhase::Running, Knowledge::Unasked, (None, None, None)),
        (VmiPhase::Running, silent(), (None, None, None)),
        (Unknown, silent(), (None, None, None)),
        // While it runs.
        (VmiPhase::Running, known(Starting), (None, None, None)),
        (VmiPhase::Running, known(Unclear), (None, None, None)),
        (VmiPhase::Running, known(ShuttingDown), (None, None, None)),
        (VmiPhase::Running, known(Shutoff), (Some(Succeeded), None, Some("Stopped"))),
        (VmiPhase::Running, known(Crashed), (Some(Failed), None, Some("Stopped"))),
        (VmiPhase::Running, known(NotStarted), (Some(Failed), None, Some("Stopped"))),
        (Unknown, known(Running), (Some(VmiPhase::Running), None, None)),
        // After its end.
        (Succeeded, known(Shutoff), (None, None, None)),
        (Failed, Knowledge::Unasked, (None, None, None)),
        (Failed, silent(), (None, None, None)),
        (Failed, known(Running), (None, Some(Call::Kill), None)),
    ];
    for (phase, knowledge, expected) in table {
        let decision = ask(&vmi(phase), &knowledge, &Memory::default());
        assert_eq!(outcome(&decision), expected, "{phase:?} {knowledge:?}");
    }
}

#[test]
fn a_vmi_that_is_deleted_is_asked_then_killed() {
    use DomainState::{NotStarted, Paused, Running, Shutoff, ShuttingDown, Starting};
    let button = |left| Some(Call::Shutdown { grace_seconds: left });
    let table = [
        (0, 30, Running, button(30)),
        (10, 30, Running, button(20)),
        (10, 30, ShuttingDown, button(20)),
        (10, 30, Starting, button(20)),
        (10, 30, Paused, button(20)),
        (29, 30, Running, button(1)),
        (30, 30, Running, Some(Call::Kill)),
        (99, 30, ShuttingDown, Some(Call::Kill)),
        (0, 0, Running, Some(Call::Kill)),
        (0, 30, NotStarted, None),
        (5, 30, Shutoff, None),
    ];
    for (ago, grace, state, call) in table {
        let decision = ask(&deleted(vmi(VmiPhase::Scheduled), ago, grace), &known(state), &Memory::default());
        assert_eq!(decision.call, call, "deleted {ago} s ago, grace {grace} s, {state:?}");
        assert!(call.is_none() || decision.again.is_some(), "a call is repeated until it has helped");
    }
    let decision = ask(&deleted(vmi(VmiPhase::Scheduled), 0, 30), &known(NotStarted), &Memory::default());
    assert_eq!(decision.status.unwrap().phase, VmiPhase::Succeeded, "never started, so nothing has failed");
}

#[test]
fn the_kill_comes_when_the_grace_is_over_and_not_at_the_next_resync() {
    let decision =
        ask(&deleted(vmi(VmiPhase::Running), 27, 30), &known(DomainState::Running), &Memory::default());
    assert_eq!(decision.again, Some(std::time::Duration::from_secs(3)));
}

#[test]
fn what_is_remembered_only_spares_calls() {
    let sent =
        |ago| Memory { shutdown_sent: Some(now() - SignedDuration::from_secs(ago)), ..Memory::default() };
    let (just, long_ago) = (sent(1), sent(6));
    let vmi = deleted(vmi(VmiPhase::Running), 10, 30);
    assert_eq!(ask(&vmi, &known(DomainState::Running), &just).call, None);
    for memory in [long_ago, Memory::default()] {
        let call = ask(&vmi, &known(DomainState::Running), &memory).call;
        assert_eq!(call, Some(Call::Shutdown { grace_seconds: 20 }));
    }
}

/// A handler may die between any two lines. Whatever it had done, the next one, which remembers
/// nothing, gets to the same end.
#[test]
fn restart_at_this_very_line() {
    let fresh = Memory::default();
    // Died after SyncVirtualMachine, before anything was written.
    assert_eq!(
        outcome(&ask(&vmi(VmiPhase::Scheduled), &known(DomainState::Running), &fresh)).0,
        Some(VmiPhase::Running)
    );
    // Died after the status was written: nothing is left to do, and nothing is told twice.
    let mut running = vmi(VmiPhase::Scheduled);
    running.status = ask(&running, &known(DomainState::Running), &fresh).status;
    assert_eq!(outcome(&ask(&running, &known(DomainState::Running), &fresh)), (None, None, None));
    // Died after the button was pressed.
    let deleting = deleted(running.clone(), 10, 30);
    assert_eq!(
        ask(&deleting, &known(DomainState::ShuttingDown), &fresh).call,
        Some(Call::Shutdown { grace_seconds: 20 })
    );
    // Died after the kill.
    assert_eq!(
        outcome(&ask(&deleted(running.clone(), 31, 30), &known(DomainState::Shutoff), &fresh)).0,
        Some(VmiPhase::Succeeded)
    );
    // Died after the end was written.
    let mut over = running;
    over.status = ask(&over, &known(DomainState::Shutoff), &fresh).status;
    assert_eq!(outcome(&ask(&over, &known(DomainState::Shutoff), &fresh)), (None, None, None));
}

#[test]
fn a_vmi_of_another_node_is_left_alone() {
    let mut not_yet = vmi(VmiPhase::Scheduled);
    not_yet.metadata.labels = Some([("kubevirt.io/nodeName".into(), "worker-2".into())].into());
    not_yet.status.as_mut().unwrap().node_name = None;
    let mut in_status = vmi(VmiPhase::Running);
    in_status.status.as_mut().unwrap().node_name = Some("worker-2".into());
    for vmi in [not_yet, in_status] {
        for state in [DomainState::Running, DomainState::Crashed, DomainState::NotStarted] {
            assert_eq!(ask(&vmi, &known(state), &Memory::default()), Decision::default());
        }
    }
}

#[test]
fn an_end_that_was_heard_outlives_the_launcher() {
    let later = now() + SignedDuration::from_secs(60);
    for (before, expected) in [
        (known(DomainState::Shutoff), known(DomainState::Shutoff)),
        (known(DomainState::Crashed), known(DomainState::Crashed)),
        (known(DomainState::Moved), known(DomainState::Moved)),
        (known(DomainState::Running), Knowledge::Unreachable { since: later, error: "cut".into() }),
        (Knowledge::Unasked, Knowledge::Unreachable { since: later, error: "cut".into() }),
        (
            Knowledge::Unreachable { since: now(), error: "refused".into() },
            Knowledge::Unreachable { since: now(), error: "cut".into() },
        ),
    ] {
        assert_eq!(before.after_silence("cut", later), expected, "{before:?}");
    }
}
