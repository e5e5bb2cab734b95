//! Tables: what the node does that gets the guest.

use kubevirt_types::migration::MigrationState;
use kubevirt_types::{VirtualMachineInstance, VmiPhase};
use serde_json::{Value, json};

use super::source_tests::{UID, at, guest, pod};
use super::{Answer, answered, then};
use crate::vmi::decide::{Call, Decision, Memory, PodFacts, View, decide};
use crate::vmi::decide_tests::{NODE, deleted, now, vmi};
use crate::vmi::knowledge::{Domain, DomainState, Knowledge, Role, Stage};

/// A running VMI that is to move from worker-2 to here, with more in its state.
fn instance(more: Value) -> VirtualMachineInstance {
    let mut vmi = vmi(VmiPhase::Running);
    let status = vmi.status.as_mut().unwrap();
    status.node_name = Some("worker-2".into());
    let mut state = json!({"migrationUid": UID, "sourceNode": "worker-2", "sourcePod": "from",
        "targetNode": NODE, "targetPod": "to"});
    json_patch::merge(&mut state, &more);
    status.migration_state = Some(serde_json::from_value(state).unwrap());
    vmi
}

fn asked() -> Value {
    json!({"sourceCertificateSha256": "aa"})
}

fn listening() -> Value {
    json!({"sourceCertificateSha256": "aa", "targetCertificateSha256": "bb",
        "targetNodeAddress": "10.0.0.7", "targetPort": 4444})
}

fn coming(state: DomainState, stage: Stage) -> Domain {
    Domain { migration: Some(Box::new(at(Role::Target, stage))), ..guest(state) }
}

fn ask(vmi: &VirtualMachineInstance, domain: Domain, pod: Option<&PodFacts>) -> Decision {
    let (knowledge, memory) = (Knowledge::Known(domain), Memory::default());
    decide(View { vmi, node: NODE, knowledge: &knowledge, pod, memory: &memory, now: now() })
}

fn prepare() -> Option<Call> {
    Some(Call::PrepareTarget { uid: UID.into(), source_certificate: "aa".into() })
}

#[test]
fn the_launcher_is_asked_to_listen_until_it_is_written_where() {
    use DomainState::{Crashed, NotStarted, Paused, Running, Shutoff, Starting};
    let with = |state: Value, key: &str| {
        let mut state = state;
        state[key] = json!(true);
        state
    };
    let table = [
        (json!({}), guest(NotStarted), None),
        (asked(), guest(NotStarted), prepare()),
        (asked(), guest(Starting), prepare()),
        (asked(), coming(Starting, Stage::Prepared), prepare()),
        (listening(), coming(Starting, Stage::Prepared), None),
        (listening(), coming(Starting, Stage::PreCopy), None),
        (listening(), coming(Starting, Stage::Switchover), None),
        // Its pod ends, which says it all.
        (listening(), coming(Shutoff, Stage::Failed), None),
        (listening(), coming(Crashed, Stage::Failed), None),
        (asked(), guest(Crashed), None),
        // Nobody wants it any more.
        (with(asked(), "abortRequested"), guest(NotStarted), None),
        // It has a guest already: somebody's mistake, and nobody's guest is touched for it.
        (asked(), guest(Running), None),
        (asked(), guest(Paused), None),
    ];
    for (state, domain, call) in table {
        let decision = ask(&instance(state.clone()), domain.clone(), Some(&pod()));
        assert_eq!((decision.call, decision.status), (call, None), "{state} {domain:?}");
    }
    let deleting = deleted(instance(asked()), 1, 30);
    assert_eq!(ask(&deleting, guest(NotStarted), Some(&pod())), Decision::default());
    let unseen = ask(&instance(asked()), guest(NotStarted), None);
    assert_eq!((unseen.call, unseen.again.is_some()), (None, true), "an address is needed, and will come");
    for end in ["failed", "completed"] {
        let over = instance(with(asked(), end));
        assert_eq!(ask(&over, guest(NotStarted), Some(&pod())), Decision::default());
    }
}

#[test]
fn a_target_whose_source_is_gone_is_told_to_give_up() {
    let mut state = listening();
    state["abortRequested"] = json!(true);
    let cancel = Some(Call::Cancel { uid: UID.into() });
    let waiting = || coming(DomainState::Starting, Stage::Prepared);
    let mut vmi = instance(state);
    let on = |vmi: &mut VirtualMachineInstance, nodes: &[&str]| {
        let pods = nodes.iter().map(|node| (format!("on-{node}"), (*node).to_owned()));
        vmi.status.as_mut().unwrap().active_pods = pods.collect();
    };
    on(&mut vmi, &["worker-2", NODE]);
    assert_eq!(ask(&vmi, waiting(), Some(&pod())).call, None, "the source is asked");
    on(&mut vmi, &[NODE]);
    assert_eq!(ask(&vmi, waiting(), Some(&pod())).call, cancel);
    let has_it = coming(DomainState::Running, Stage::Completed);
    assert!(moved(&ask(&vmi, has_it, Some(&pod()))).is_some(), "it has the guest: that is said first");
    let gave_up = coming(DomainState::Shutoff, Stage::Cancelled);
    assert_eq!(ask(&vmi, gave_up, Some(&pod())), Decision::default());
    vmi.status.as_mut().unwrap().migration_state.as_mut().unwrap().abort_requested = false;
    assert_eq!(ask(&vmi, waiting(), Some(&pod())).call, None, "nobody has asked for it");
}

#[test]
fn where_it_listens_is_one_write() {
    let call = prepare().unwrap();
    let answer = Answer::Target { port: 4444, certificate: "bb".into() };
    let (status, notice) = answered(&instance(asked()), &call, &answer, Some(&pod()), now()).unwrap();
    let state = status.migration_state.unwrap();
    let expected = instance(listening()).status.unwrap().migration_state.unwrap();
    assert_eq!(state, expected);
    let notice = notice.unwrap();
    assert_eq!(notice.reason, "PreparingTarget");
    assert_eq!(notice.message, "VirtualMachineInstance Migration Target Prepared.");
    assert_eq!(answered(&instance(asked()), &call, &answer, None, now()), None);
}

#[test]
fn a_launcher_that_cannot_take_the_guest_is_ended_before_it_has_one() {
    let (call, never) = (prepare().unwrap(), Answer::Never { why: "no such machine".into() });
    let next = |state| then(&call, &never, &Knowledge::Known(guest(state)));
    assert_eq!(next(DomainState::NotStarted), Some(Call::Discard { why: "no such machine".into() }));
    for state in [DomainState::Starting, DomainState::Running, DomainState::Paused] {
        assert_eq!(next(state), None, "{state:?}");
    }
    assert_eq!(then(&call, &never, &Knowledge::Unasked), None);
    assert_eq!(answered(&instance(asked()), &call, &never, Some(&pod()), now()), None, "not its word to say");
    let mut old = guest(DomainState::NotStarted);
    old.can_move = false;
    assert!(matches!(ask(&instance(asked()), old, Some(&pod())).call, Some(Call::Discard { .. })));
}

fn moved(decision: &Decision) -> Option<MigrationState> {
    let status = decision.status.clone()?;
    assert_eq!(status.node_name.as_deref(), Some(NODE), "together with the owner");
    status.migration_state.filter(|state| state.completed)
}

#[test]
fn the_guest_is_this_nodes_when_its_launcher_says_that_it_runs() {
    use DomainState::{Crashed, Paused, Running, Shutoff, ShuttingDown, Starting};
    for stage in [Stage::Prepared, Stage::PreCopy, Stage::Switchover, Stage::Failed, Stage::Unclear] {
        for state in [Starting, Running, Paused, Crashed] {
            let decision = ask(&instance(listening()), coming(state, stage), Some(&pod()));
            assert_eq!(decision.status, None, "{state:?} {stage:?}");
        }
    }
    let early = ask(&instance(listening()), coming(Starting, Stage::Completed), Some(&pod()));
    assert_eq!((early.status, early.again.is_some()), (None, true));
    let mut of_another = coming(Running, Stage::Completed);
    of_another.migration.as_mut().unwrap().uid = "m-0".into();
    let mut as_source = coming(Running, Stage::Completed);
    as_source.migration.as_mut().unwrap().role = Role::Source;
    for domain in [of_another, as_source] {
        assert_eq!(ask(&instance(listening()), domain, Some(&pod())).status, None);
    }

    for state in [Running, Paused, ShuttingDown, Shutoff, Crashed] {
        for vmi in [instance(listening()), deleted(instance(listening()), 99, 30)] {
            let mut domain = coming(state, Stage::Completed);
            domain.migration.as_mut().unwrap().ended = Some("2026-11-23T01:59:58Z".parse().unwrap());
            let decision = ask(&vmi, domain, Some(&pod()));
            let told = moved(&decision).unwrap();
            assert_eq!(told.end_timestamp, Some("2026-11-23T01:59:58Z".parse().unwrap()));
            assert_eq!(told.target_node_domain_ready_timestamp, told.end_timestamp);
            assert_eq!(
                decision.status.as_ref().unwrap().phase,
                VmiPhase::Running,
                "no end in the same write"
            );
            assert_eq!(decision.call, None);
            let notice = &decision.notices[0];
            assert_eq!(notice.message, "The VirtualMachineInstance migrated to node worker-1.");
            let ips = decision.status.unwrap().interfaces.first().map(|i| i.ip_addresses.clone());
            let lives = matches!(state, Running | Paused);
            assert_eq!(ips, lives.then(|| vec!["10.0.0.7".to_owned()]), "{state:?}");
        }
    }
}

#[test]
fn what_became_of_it_since_is_said_by_its_owner() {
    for (state, phase) in
        [(DomainState::Shutoff, VmiPhase::Succeeded), (DomainState::Crashed, VmiPhase::Failed)]
    {
        let mut vmi = instance(listening());
        let domain = coming(state, Stage::Completed);
        vmi.status = ask(&vmi, domain.clone(), Some(&pod())).status;
        let status = ask(&vmi, domain, Some(&pod())).status.unwrap();
        assert_eq!((status.phase, status.migration_state.unwrap().completed), (phase, true));
    }
}
