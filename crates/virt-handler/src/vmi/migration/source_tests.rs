//! Tables: what the node does that has the guest.

use std::time::Duration;

use jiff::SignedDuration;
use kubevirt_types::migration::{AbortStatus, MigrationMode, MigrationProgress, MigrationState};
use kubevirt_types::{VirtualMachineInstance, VmiPhase};
use serde_json::{Value, json};

use super::{Answer, Limits, Verdict, answered};
use crate::vmi::decide::{Call, Decision, Memory, PodFacts, View, decide};
use crate::vmi::decide_tests::{NODE, deleted, now, vmi};
use crate::vmi::knowledge::{Domain, DomainState, Knowledge, Migration, Role, Stage};
use crate::vmi::status;

pub(super) const UID: &str = "m-1";

pub(super) fn pod() -> PodFacts {
    PodFacts { ips: vec!["10.0.0.7".into()], deleting: false }
}

/// A guest that could be moved.
pub(super) fn guest(state: DomainState) -> Domain {
    Domain { can_move: true, machine_type: "pc-q35-7.2".into(), ..Domain::in_state(state) }
}

pub(super) fn at(role: Role, stage: Stage) -> Migration {
    let begun = !matches!(stage, Stage::Prepared | Stage::Unclear);
    Migration {
        uid: UID.into(),
        role,
        stage,
        progress: MigrationProgress::default(),
        started: begun.then(|| now() - SignedDuration::from_secs(20)),
        ended: None,
        downtime_ms: None,
        failure: String::new(),
        unreachable: false,
    }
}

/// A guest whose launcher has come so far.
fn moving(stage: Stage) -> Domain {
    let state = if stage == Stage::Completed { DomainState::Moved } else { DomainState::Running };
    Domain { migration: Some(Box::new(at(Role::Source, stage))), ..guest(state) }
}

fn unreachable(stage: Stage) -> Domain {
    let mut domain = moving(stage);
    domain.migration.as_mut().unwrap().unreachable = true;
    domain.state = DomainState::Paused;
    domain.reason = "MigrationUnconfirmed".into();
    domain
}

/// A running VMI that is to move from here to worker-2, with more in its state.
fn instance(more: Value) -> VirtualMachineInstance {
    let mut vmi = vmi(VmiPhase::Running);
    vmi.status = Some(status::running(&vmi, NODE, &guest(DomainState::Running), Some(&pod()), now()));
    let mut state = json!({"migrationUid": UID, "sourceNode": NODE, "sourcePod": "from",
        "targetNode": "worker-2", "targetPod": "to"});
    json_patch::merge(&mut state, &more);
    vmi.status.as_mut().unwrap().migration_state = Some(serde_json::from_value(state).unwrap());
    vmi
}

fn ready() -> Value {
    json!({"sourceCertificateSha256": "aa", "targetCertificateSha256": "bb",
        "targetNodeAddress": "10.0.1.9", "targetPort": 4444})
}

fn begun(more: Value) -> Value {
    let mut state = ready();
    json_patch::merge(&mut state, &json!({"startTimestamp": "2026-11-23T01:59:40Z", "mode": "PreCopy"}));
    json_patch::merge(&mut state, &more);
    state
}

fn ask(vmi: &VirtualMachineInstance, domain: Domain) -> Decision {
    ask_with(vmi, domain, &Memory::default())
}

fn ask_with(vmi: &VirtualMachineInstance, domain: Domain, memory: &Memory) -> Decision {
    let knowledge = Knowledge::Known(domain);
    decide(View { vmi, node: NODE, knowledge: &knowledge, pod: Some(&pod()), memory, now: now() })
}

fn written(decision: &Decision) -> Option<MigrationState> {
    decision.status.clone()?.migration_state
}

fn failure(decision: &Decision) -> Option<String> {
    written(decision).filter(|state| state.failed)?.failure_reason
}

fn prepare() -> Option<Call> {
    Some(Call::PrepareSource { uid: UID.into() })
}

fn cancel() -> Option<Call> {
    Some(Call::Cancel { uid: UID.into() })
}

fn resolve(verdict: Verdict) -> Option<Call> {
    Some(Call::Resolve { uid: UID.into(), verdict })
}

#[test]
fn what_is_asked_of_the_launcher() {
    let migrate = Some(Call::Migrate {
        uid: UID.into(),
        address: "10.0.1.9".into(),
        port: 4444,
        certificate: "bb".into(),
        limits: Limits::of(None),
    });
    let alone = json!({"sourceCertificateSha256": "aa"});
    let half = json!({"sourceCertificateSha256": "aa", "targetNodeAddress": "10.0.1.9", "targetPort": 4444});
    let abort = |state: Value| {
        let mut state = state;
        state["abortRequested"] = json!(true);
        state
    };
    let end = |state: Value, end: &str| {
        let mut state = state;
        state[end] = json!(true);
        state
    };
    let running = guest(DomainState::Running);
    let table = [
        // The identity, again until it is written.
        (json!({}), running.clone(), prepare()),
        (json!({}), guest(DomainState::Starting), None),
        (json!({}), guest(DomainState::ShuttingDown), None),
        (json!({}), moving(Stage::Prepared), prepare()),
        // The target listens when all of it is written.
        (alone.clone(), moving(Stage::Prepared), None),
        (half, moving(Stage::Prepared), None),
        (ready(), moving(Stage::Prepared), migrate),
        (begun(json!({})), moving(Stage::Connecting), None),
        (begun(json!({})), moving(Stage::PreCopy), None),
        (begun(json!({})), moving(Stage::Switchover), None),
        (begun(json!({})), moving(Stage::HandedOver), None),
        (begun(json!({})), moving(Stage::Completed), None),
        (begun(json!({})), moving(Stage::Unclear), None),
        // Nobody knows better than the launchers while one of them may still find out.
        (begun(json!({})), unreachable(Stage::HandedOver), None),
        (end(begun(json!({})), "failed"), moving(Stage::HandedOver), None),
        (end(begun(json!({})), "failed"), unreachable(Stage::HandedOver), resolve(Verdict::TargetGone)),
        // What was given up elsewhere is ended here.
        (end(ready(), "failed"), moving(Stage::Prepared), cancel()),
        (end(begun(json!({})), "failed"), moving(Stage::PreCopy), cancel()),
        (end(begun(json!({})), "failed"), moving(Stage::Switchover), cancel()),
        (end(begun(json!({})), "failed"), moving(Stage::Failed), None),
        (end(begun(json!({})), "failed"), moving(Stage::Completed), None),
        (end(json!({}), "failed"), running, None),
        // Somebody wants it to end.
        (abort(alone), moving(Stage::Prepared), cancel()),
        (abort(begun(json!({}))), moving(Stage::Connecting), cancel()),
        (abort(begun(json!({}))), moving(Stage::PreCopy), cancel()),
        (abort(begun(json!({}))), moving(Stage::Switchover), cancel()),
        (abort(begun(json!({"abortStatus": "Failed"}))), moving(Stage::HandedOver), None),
    ];
    for (state, domain, call) in table {
        let decision = ask(&instance(state.clone()), domain.clone());
        assert_eq!(decision.call, call, "{state} {domain:?}");
        let final_ = state["failed"] == true || state["completed"] == true;
        assert!(call.is_none() || decision.again.is_some(), "a call is repeated until it has helped");
        assert!(!final_ || decision.status.is_none(), "what is over is not written: {state} {domain:?}");
    }
}

#[test]
fn why_it_failed() {
    let said = |stage, failure: &str| {
        let mut domain = moving(stage);
        domain.migration.as_mut().unwrap().failure = failure.into();
        domain
    };
    let mut old = guest(DomainState::Running);
    old.can_move = false;
    let mut another = moving(Stage::Failed);
    another.migration.as_mut().unwrap().uid = "m-0".into();
    let abort = json!({"abortRequested": true});
    let forgotten = "the virtual machine's launcher doesn't know this migration";
    for (state, domain, why) in [
        (begun(json!({})), said(Stage::Failed, "the network is down"), Some("the network is down")),
        (begun(json!({})), said(Stage::Cancelled, ""), Some("cancelled")),
        (begun(abort.clone()), said(Stage::Cancelled, "cancelled"), Some("cancelled")),
        (json!({}), old.clone(), Some("the virtual machine's launcher is of a release that can't move it")),
        (abort.clone(), guest(DomainState::Running), Some("cancelled")),
        (ready(), guest(DomainState::Running), Some(forgotten)),
        (ready(), another.clone(), Some(forgotten)),
        // The guest itself has ended, and it did so here.
        (json!({}), guest(DomainState::Shutoff), Some("the virtual machine has ended before it was moved")),
        (json!({}), another, None),
    ] {
        let decision = ask(&instance(state.clone()), domain.clone());
        assert_eq!(failure(&decision).as_deref(), why, "{state} {domain:?}");
        let Some(failed) = written(&decision).filter(|state| state.failed) else { continue };
        assert!(failed.end_timestamp.is_some() && !failed.completed);
        let aborted = (state["abortRequested"] == true).then_some(AbortStatus::Succeeded);
        assert_eq!(failed.abort_status, aborted);
        let warning = decision.notices.last().unwrap();
        assert_eq!((warning.warning, warning.reason), (true, "Migrated"));
        let message = format!("VirtualMachineInstance migration uid m-1 failed. reason: {}", why.unwrap());
        assert_eq!(warning.message, message);
    }
}

#[test]
fn a_guest_that_ends_here_while_it_is_copied_has_ended_and_has_not_moved() {
    for (state, phase) in
        [(DomainState::Shutoff, VmiPhase::Succeeded), (DomainState::Crashed, VmiPhase::Failed)]
    {
        let mut domain = moving(Stage::Failed);
        domain.state = state;
        domain.reason = "GuestShutdown".into();
        domain.migration.as_mut().unwrap().failure = "the guest has ended".into();
        let decision = ask(&instance(begun(json!({}))), domain);
        assert_eq!(decision.status.as_ref().unwrap().phase, phase);
        assert_eq!(failure(&decision).as_deref(), Some("the guest has ended"));
    }
}

/// Whoever ends a source's QEMU may come too late: the guest may be at the target already, and the
/// source would say no more than this.
#[test]
fn an_end_from_outside_in_the_middle_of_a_migration_is_nobodys_end_yet() {
    let mut domain = moving(Stage::Failed);
    domain.state = DomainState::Shutoff;
    domain.reason = "Killed".into();
    let open = deleted(instance(begun(json!({}))), 40, 30);
    let decision = ask(&open, domain.clone());
    assert_eq!((decision.status, decision.call), (None, None));
    assert!(decision.again.is_some());
    // The target has ended without it.
    let failed = deleted(instance(begun(json!({"failed": true}))), 40, 30);
    assert_eq!(ask(&failed, domain.clone()).status.unwrap().phase, VmiPhase::Succeeded);
    // It never was on its way.
    domain.migration.as_mut().unwrap().started = None;
    let decision = ask(&deleted(instance(ready()), 40, 30), domain);
    assert_eq!(decision.status.as_ref().unwrap().phase, VmiPhase::Succeeded);
    assert!(failure(&decision).is_some());
}

#[test]
fn a_guest_that_is_given_away_is_neither_judged_nor_ended_here() {
    for domain in [moving(Stage::HandedOver), unreachable(Stage::HandedOver), moving(Stage::Completed)] {
        for vmi in [instance(begun(json!({}))), deleted(instance(begun(json!({}))), 99, 30)] {
            let decision = ask(&vmi, domain.clone());
            assert_eq!((decision.status, decision.call), (None, None), "{domain:?}");
            assert!(decision.again.is_some());
        }
    }
    // Before, it is shut down as ever, and so the migration ends.
    let decision = ask(&deleted(instance(begun(json!({}))), 10, 30), moving(Stage::PreCopy));
    assert_eq!(decision.call, Some(Call::Shutdown { grace_seconds: 20 }));
    let pressed = Memory { shutdown_sent: Some(now()), ..Memory::default() };
    let aborted = deleted(instance(begun(json!({"abortRequested": true}))), 10, 30);
    assert_eq!(ask_with(&aborted, moving(Stage::PreCopy), &pressed).call, cancel());
    // Nothing new is begun.
    assert!(
        ask_with(&deleted(instance(json!({})), 10, 30), guest(DomainState::Running), &pressed).call.is_none()
    );
}

#[test]
fn numbers_are_written_when_they_change_and_not_often() {
    let mut domain = moving(Stage::PreCopy);
    let progress =
        MigrationProgress { total_bytes: 100, remaining_bytes: 40, ..MigrationProgress::default() };
    domain.migration.as_mut().unwrap().progress = progress.clone();
    let first = ask(&instance(ready()), domain.clone());
    let state = written(&first).unwrap();
    assert_eq!(state.start_timestamp, Some("2026-11-23T01:59:40Z".parse().unwrap()));
    assert_eq!((state.mode, state.progress), (Some(MigrationMode::PreCopy), Some(progress.clone())));
    assert_eq!(first.notices[0].reason, "Migrating");

    let same = instance(begun(json!({"progress": progress})));
    assert_eq!(written(&ask(&same, domain.clone())), None);
    domain.migration.as_mut().unwrap().progress.remaining_bytes = 30;
    let just = Memory { progress_written: Some(now() - SignedDuration::from_secs(1)), ..Memory::default() };
    let early = ask_with(&same, domain.clone(), &just);
    assert_eq!((written(&early), early.again), (None, Some(Duration::from_secs(2))));
    let before = Memory { progress_written: Some(now() - SignedDuration::from_secs(2)), ..Memory::default() };
    for memory in [before, Memory::default()] {
        let late = ask_with(&same, domain.clone(), &memory);
        assert_eq!(written(&late).unwrap().progress.unwrap().remaining_bytes, 30);
        assert!(late.notices.is_empty(), "that it moves is said once");
    }
}

#[test]
fn a_wish_that_comes_too_late_is_answered() {
    for stage in [Stage::HandedOver, Stage::Completed] {
        let decision = ask(&instance(begun(json!({"abortRequested": true}))), moving(stage));
        let state = written(&decision).unwrap();
        assert_eq!((state.abort_status, state.failed), (Some(AbortStatus::Failed), false), "{stage:?}");
    }
}

#[test]
fn how_long_the_guest_stood_is_the_sources_to_say_before_and_after_the_move() {
    let mut domain = moving(Stage::Completed);
    domain.migration.as_mut().unwrap().downtime_ms = Some(31);
    let mut moved = instance(begun(json!({"completed": true})));
    moved.status.as_mut().unwrap().node_name = Some("worker-2".into());
    for vmi in [instance(begun(json!({}))), moved.clone()] {
        let decision = ask(&vmi, domain.clone());
        let state = written(&decision).unwrap();
        assert_eq!(state.downtime_milliseconds, Some(31));
        assert_eq!(decision.status.unwrap().node_name, vmi.status.as_ref().unwrap().node_name);
    }
    moved.status.as_mut().unwrap().migration_state.as_mut().unwrap().downtime_milliseconds = Some(31);
    assert_eq!(ask(&moved, domain).status, None);
    assert_eq!(ask(&moved, unreachable(Stage::HandedOver)).call, resolve(Verdict::TargetRuns));
    assert_eq!(ask(&moved, moving(Stage::HandedOver)).call, None, "its launcher will hear it");
}

#[test]
fn an_earlier_migration_is_ended_first() {
    let earlier = |domain: Domain| {
        let mut domain = domain;
        domain.migration.as_mut().unwrap().uid = "m-0".into();
        domain
    };
    let uid = || "m-0".to_owned();
    let gone = Some(Call::Resolve { uid: uid(), verdict: Verdict::TargetGone });
    for (domain, call) in [
        (earlier(moving(Stage::PreCopy)), Some(Call::Cancel { uid: uid() })),
        (earlier(moving(Stage::HandedOver)), None),
        (earlier(unreachable(Stage::HandedOver)), gone),
        (earlier(moving(Stage::Prepared)), prepare()),
        (earlier(moving(Stage::Failed)), prepare()),
        (earlier(moving(Stage::Cancelled)), prepare()),
    ] {
        assert_eq!(ask(&instance(json!({})), domain.clone()).call, call, "{domain:?}");
    }
}

#[test]
fn what_the_target_has_to_know_is_written_before_it_is_asked() {
    let mut vmi = instance(json!({}));
    vmi.status.as_mut().unwrap().machine = None;
    let first = ask(&vmi, guest(DomainState::Running));
    assert_eq!(first.call, None);
    vmi.status = first.status;
    let machine = vmi.status.as_ref().unwrap().machine.as_ref().unwrap();
    assert_eq!(machine.type_.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(ask(&vmi, guest(DomainState::Running)).call, prepare());
}

#[test]
fn what_the_launcher_answers_is_written() {
    let write = |state: Value, call: Option<Call>, answer: Answer| {
        answered(&instance(state), &call.unwrap(), &answer, None, now())
            .map(|(status, _)| status.migration_state.unwrap())
    };
    let never = || Answer::Never { why: "volume disk is an emptyDisk".into() };
    let migrate = ask(&instance(ready()), moving(Stage::Prepared)).call;
    let told = write(json!({}), prepare(), Answer::Source { certificate: "aa".into() }).unwrap();
    assert_eq!(told.source_certificate_sha256.as_deref(), Some("aa"));
    for (state, call) in [(json!({}), prepare()), (ready(), migrate.clone())] {
        let refused = write(state, call, never()).unwrap();
        assert_eq!(
            (refused.failed, refused.failure_reason.as_deref()),
            (true, Some("volume disk is an emptyDisk"))
        );
    }
    assert_eq!(write(ready(), migrate, Answer::Done), None, "the launcher's state tells the rest");
    let aborted = write(begun(json!({"abortRequested": true})), cancel(), never()).unwrap();
    assert_eq!((aborted.abort_status, aborted.failed), (Some(AbortStatus::Failed), false));
    assert_eq!(write(begun(json!({"failed": true})), cancel(), never()), None);
    let other = Some(Call::Cancel { uid: "m-0".into() });
    assert_eq!(write(begun(json!({"abortRequested": true})), other, never()), None);
}

#[test]
fn limits_are_those_of_the_time_it_began() {
    let said = |configuration: Value| Limits::of(Some(&serde_json::from_value(configuration).unwrap()));
    let default = Limits { bandwidth: 0, completion_per_gib: 150, progress: 150, auto_converge: false };
    assert_eq!(Limits::of(None), default);
    assert_eq!(said(json!({})), default);
    let all = json!({"bandwidthPerMigration": "64Mi", "completionTimeoutPerGiB": 0, "progressTimeout": 9,
        "allowAutoConverge": true});
    let expected = Limits { bandwidth: 64 << 20, completion_per_gib: 0, progress: 9, auto_converge: true };
    assert_eq!(said(all), expected);
    assert_eq!(said(json!({"bandwidthPerMigration": "much"})).bandwidth, 0);
}
