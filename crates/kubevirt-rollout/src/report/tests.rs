//! Table tests of reports: observations in, numbers out.

use jiff::SignedDuration;
use kubevirt_manifests::InstallConfig;
use kubevirt_types::Release;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure, UpdateRecord};
use serde_json::json;

use super::*;
use crate::fixture::{at, observed, pod};
use crate::observed::Pod;
use crate::plan::{Direction, Stage};

fn ms(millisecond: i64) -> Timestamp {
    at(0) + SignedDuration::from_millis(millisecond)
}

fn subject_of(started: i64) -> Subject {
    Subject { from: "v0.17.0".into(), to: "v0.18.0".into(), started: at(started) }
}

fn report() -> UpdateReport {
    UpdateReport::begin(&subject_of(0), "Update", at(0))
}

fn plan(stage: Stage) -> Plan {
    Plan {
        direction: Direction::Update,
        stage,
        steps: vec![],
        waiting_on: vec![],
        target: Some(InstallConfig::of(Release::V0_18_0)),
        failed: None,
    }
}

fn probe(sent: i64, answered: i64, failed: Option<&str>) -> Probe {
    Probe {
        kind: ProbeKind::Webhook,
        sent: ms(sent),
        answered: ms(answered),
        failed: failed.map(str::to_owned),
    }
}

/// When a request was sent, when it was answered, and what was wrong.
type Asked<'a> = (i64, i64, Option<&'a str>);

/// Requests, failed ones, the longest gap, when it began, and the slowest answer; in milliseconds.
type Numbers = (u64, u64, u64, i64, u64);

fn asked(report: &mut UpdateReport, probes: &[Asked<'_>]) {
    for (sent, answered, failed) in probes {
        report.fold(&Observation::Probe(&probe(*sent, *answered, *failed)), ms(*answered));
    }
}

fn webhook(report: &UpdateReport) -> &Availability {
    &report.availability[&ProbeKind::Webhook]
}

#[test]
fn a_gap_is_from_one_good_answer_to_the_next() {
    let why = Some("no endpoints");
    // sent, answered, failed: requests, failed, longest gap, from when, slowest
    let table: &[(&[Asked<'_>], Numbers)] = &[
        (&[(0, 10, None), (500, 520, None), (1000, 1010, None)], (3, 0, 510, 10, 20)),
        (&[(0, 10, None), (500, 510, why), (1000, 1010, why), (1500, 1530, None)], (4, 2, 1520, 10, 30)),
        (&[(0, 900, why), (500, 1400, None)], (2, 1, 1400, 0, 900)),
        // one that was answered late says nothing against those that were asked after it
        (&[(0, 10, None), (500, 3000, None), (1000, 1010, None)], (3, 0, 2990, 10, 2500)),
    ];
    for (probes, expected) in table {
        let mut report = report();
        asked(&mut report, probes);
        let seen = webhook(&report);
        let from = seen.longest_gap_from.unwrap().duration_since(at(0)).as_millis();
        let got = (
            seen.probes,
            seen.failed,
            seen.longest_gap_milliseconds,
            i64::try_from(from).unwrap(),
            seen.slowest_milliseconds,
        );
        assert_eq!(got, *expected, "{probes:?}");
    }
}

#[test]
fn a_gap_that_no_answer_ends_ends_with_the_update() {
    let mut report = report();
    asked(&mut report, &[(0, 10, None), (500, 510, Some("x"))]);
    report.end(ms(7010), Outcome::Completed);
    assert_eq!(webhook(&report).longest_gap_milliseconds, 7000);
    asked(&mut report, &[(8000, 8010, Some("late"))]);
    assert_eq!(webhook(&report).failed, 1, "what comes after the end is left out");
    assert_eq!(webhook(&report).last_failure.as_ref().unwrap().words, "x");
}

#[test]
fn what_nobody_watched_is_unobserved_and_never_a_gap() {
    let mut report = report();
    asked(&mut report, &[(0, 10, None), (500, 510, None)]);
    // the next leader reads what was stored
    let mut next: UpdateReport = serde_json::from_str(&stored(&report)).unwrap();
    next.resume(at(9));
    asked(&mut next, &[(9000, 9010, None), (9500, 9510, None)]);
    assert_eq!(next.unobserved, [Span { from: ms(510), to: at(9) }]);
    assert_eq!(next.unobserved_milliseconds, 8490);
    assert_eq!(webhook(&next).longest_gap_milliseconds, 500);
    assert_eq!(webhook(&next).probes, 4);

    // and nobody asks at all while the process is stopped
    asked(&mut next, &[(40_000, 40_010, None)]);
    assert_eq!(next.unobserved.last(), Some(&Span { from: ms(9500), to: at(40) }));
    assert_eq!(webhook(&next).longest_gap_milliseconds, 500);
}

#[test]
fn a_report_that_begins_late_says_so() {
    let report = UpdateReport::begin(&subject_of(0), "Update", at(2));
    assert_eq!(report.unobserved, [Span { from: at(0), to: at(2) }]);
    let mut left = report;
    left.ended = Some(at(5));
    left.resume(at(100));
    assert_eq!(left.unobserved_milliseconds, 5000, "it was over then");
}

#[test]
fn failures_are_listed_within_bounds_and_counted_without() {
    let mut report = report();
    let words = "x".repeat(10_000);
    for i in 0..10_000 {
        asked(&mut report, &[(i, i, Some(&words))]);
    }
    let seen = webhook(&report);
    assert_eq!((seen.failed, seen.failures.len()), (10_000, 20));
    assert!(seen.failures[0].words.len() == 500 && seen.last_failure.as_ref().unwrap().sent == ms(9_999));
}

fn term(holder: &str, acquired: i64, renewed: i64, released: bool) -> Term {
    Term { holder: holder.into(), acquired: ms(acquired), renewed: ms(renewed), released }
}

#[test]
fn a_lease_says_when_it_was_free() {
    let mut terms = Terms::default();
    for (holder, acquired, renewed) in [
        ("", -9, -9),
        ("a", 0, 0),
        ("a", 0, 2000),
        ("", 2500, 2500),
        ("b", 2600, 2600),
        ("c", 20_000, 20_000),
        ("c", 20_000, 22_000),
    ] {
        terms.see(holder, ms(acquired), ms(renewed));
    }
    assert_eq!(
        terms.all(),
        [term("a", 0, 2500, true), term("b", 2600, 2600, false), term("c", 20_000, 22_000, false)]
    );
    let mut report = report();
    report.fold(&Observation::Terms("virt-controller", terms.all()), ms(22_000));
    report.fold(&Observation::Terms("virt-controller", terms.all()), ms(23_000));
    let seen = &report.leaders["virt-controller"];
    let gaps: Vec<_> = seen.listed.iter().map(|one| (one.gap_milliseconds, one.released)).collect();
    assert_eq!((seen.handovers, gaps), (2, vec![(100, true), (17_400, false)]), "each is counted once");
    assert_eq!(report.summary("r").longest_leader_gap_milliseconds, 17_400);

    let before = [term("a", -9000, -8000, true), term("b", -7000, 0, false)];
    report.fold(&Observation::Terms("virt-operator", &before), ms(0));
    assert_eq!(report.leaders["virt-operator"].handovers, 0, "that was before");
}

/// A virt-api that lives, answers, and carries so many streams.
fn api(name: &str, made: i64, open: u64) -> ApiPod {
    let said = ApiStreams { open, requests: 100, ..ApiStreams::default() };
    ApiPod { name: name.into(), made: at(made), deleting: false, lost_processes: 0, said: Some(said) }
}

/// The same, with streams that it resumed, and that it couldn't.
fn streams(pod: &str, made: i64, numbers: (u64, u64, u64)) -> ApiPod {
    let (open, resumed, cut) = numbers;
    let mut pod = api(pod, made, open);
    pod.said = pod.said.map(|said| ApiStreams { resumed, cut, ..said });
    pod
}

fn silent(pod: ApiPod) -> ApiPod {
    ApiPod { said: None, ..pod }
}

fn told(pod: ApiPod) -> ApiPod {
    ApiPod { deleting: true, ..pod }
}

/// So many of its processes are lost.
fn lost(processes: u64, pod: ApiPod) -> ApiPod {
    ApiPod { lost_processes: processes, ..pod }
}

/// Its process has begun anew, and somebody has asked it already.
fn anew(pod: ApiPod) -> ApiPod {
    let said = pod.said.map(|said| ApiStreams { requests: 3, ..said });
    ApiPod { said, ..pod }
}

#[test]
fn sessions_are_counted_from_when_the_update_began() {
    let mut report = report();
    let mut look = |pods: &[ApiPod]| {
        report.fold(&Observation::Streams(pods), at(1));
        (report.sessions.open_at_start, report.sessions.open, report.sessions.resumed, report.sessions.cut)
    };
    let new = |numbers| streams("new", 1, numbers);
    assert_eq!(look(&[silent(api("a", -9, 0))]), (None, 0, 0, 0), "nobody has answered");
    assert_eq!(
        look(&[streams("a", -9, (3, 40, 2))]),
        (Some(3), 3, 0, 0),
        "what was before counts for nothing"
    );
    assert_eq!(look(&[streams("a", -9, (2, 43, 3)), silent(new((0, 0, 0)))]), (Some(3), 2, 3, 1));
    let slow = silent(api("a", -9, 0));
    assert_eq!(look(&[slow, new((1, 1, 0))]), (Some(3), 3, 4, 1), "a is silent for once");
    let ends = told(silent(api("a", -9, 0)));
    assert_eq!(look(&[ends, new((1, 1, 0))]), (Some(3), 1, 4, 1), "a listens no more");
    assert_eq!(look(&[new((1, 1, 0))]), (Some(3), 1, 4, 1));
    assert_eq!((report.sessions.left_to_drain, report.sessions.carried()), (2, 6));
    report.end(at(2), Outcome::Completed);
    assert!(report.sessions.apis.is_empty());
}

/// What was seen of virt-apis, each look five seconds behind the one before.
type Looks = Vec<Vec<ApiPod>>;

#[test]
fn streams_of_a_virt_api_that_is_lost_are_lost_and_those_of_one_that_ends_as_told_are_carried() {
    let a = || api("a", -9, 5);
    let gone = || vec![api("b", -9, 0)];
    let deaf = |looks: usize| vec![vec![silent(a())]; looks];
    // what is seen, how many are left to one that ends, how many are lost
    let table: Vec<(&str, Looks, (u64, u64))> = vec![
        ("killed and deleted at once", vec![vec![a()], gone(), gone()], (0, 5)),
        ("silent for once, and gone", vec![vec![a()], vec![silent(a())], gone()], (0, 5)),
        (
            "ended as it was told: it drains",
            vec![vec![a()], vec![told(a())], vec![told(silent(a()))], vec![told(silent(a()))], gone()],
            (5, 0),
        ),
        ("it stopped to listen before it was seen", vec![vec![a()], vec![told(silent(a()))], gone()], (5, 0)),
        ("it ended between two looks", vec![vec![a()], vec![told(a())], gone()], (5, 0)),
        (
            "it was only slow to answer while it ended",
            vec![vec![a()], vec![told(silent(a()))], vec![told(a())], vec![told(silent(a()))], gone()],
            (5, 0),
        ),
        (
            "it failed while it ended",
            vec![vec![a()], vec![told(silent(a()))], vec![lost(1, told(silent(a())))], gone()],
            (0, 5),
        ),
        ("killed, and then told to end", vec![vec![a()], vec![lost(1, told(silent(a())))], gone()], (0, 5)),
        (
            "restarted in place, as its counters say first",
            vec![vec![a()], vec![anew(api("a", -9, 0))], vec![lost(1, api("a", -9, 4))], vec![lost(1, a())]],
            (0, 5),
        ),
        (
            "restarted in place, as its pod says first",
            vec![
                vec![a()],
                vec![lost(1, silent(a()))],
                vec![lost(1, anew(api("a", -9, 2)))],
                vec![lost(1, api("a", -9, 2))],
            ],
            (0, 5),
        ),
        ("restarted in place, and asked much since", vec![vec![a()], vec![lost(1, api("a", -9, 0))]], (0, 5)),
        (
            "restarted in place twice",
            vec![
                vec![a()],
                vec![anew(api("a", -9, 2))],
                vec![lost(1, api("a", -9, 2))],
                vec![lost(2, anew(api("a", -9, 0)))],
            ],
            (0, 7),
        ),
        ("its clients hung up", vec![vec![a()], vec![api("a", -9, 0)], gone()], (0, 0)),
        (
            "restarted before the update",
            vec![vec![lost(7, a())], vec![lost(7, a())], vec![told(silent(lost(7, a())))], gone()],
            (5, 0),
        ),
        (
            "its node was cut off for a moment",
            [vec![vec![a()]], deaf(5), vec![vec![a()], vec![told(silent(a()))], gone()]].concat(),
            (5, 0),
        ),
        (
            "its node is lost, and in the end its pod is told to end",
            [vec![vec![a()]], deaf(14), vec![vec![told(silent(a()))], gone()]].concat(),
            (0, 5),
        ),
        ("its node is lost until all is over", [vec![vec![a()]], deaf(14)].concat(), (0, 5)),
    ];
    for (what, looks, expected) in table {
        let mut report = report();
        let mut now = at(1);
        for pods in &looks {
            now += SignedDuration::from_secs(5);
            report.fold(&Observation::Streams(pods), now);
            // whoever leads next knows the same
            report = serde_json::from_str(&stored(&report)).unwrap();
        }
        report.end(now, Outcome::Completed);
        let seen = &report.sessions;
        assert_eq!((seen.left_to_drain, seen.lost), expected, "{what}");
        assert_eq!((seen.carried(), seen.cut), (expected.0, 0), "{what}: who is lost is never carried");
        assert_eq!(report.summary("r").sessions_lost, Some(expected.1), "{what}");
    }
}

#[test]
fn a_virt_api_that_went_while_nobody_watched_is_neither_carried_nor_lost() {
    // what the next leader sees: left to one that ends, lost, not known
    let table: Vec<(Vec<ApiPod>, (u64, u64, u64))> = vec![
        (vec![], (0, 0, 5)),
        (vec![api("a", -9, 5)], (0, 0, 0)),
        (vec![told(silent(api("a", -9, 5)))], (5, 0, 0)),
        (vec![lost(1, api("a", -9, 1))], (0, 5, 0)),
    ];
    for (pods, expected) in table {
        let mut report = report();
        report.fold(&Observation::Streams(&[api("a", -9, 5), api("b", -9, 0)]), at(1));
        report.resume(at(20));
        report.fold(&Observation::Streams(&[&pods[..], &[api("b", -9, 0)]].concat()), at(21));
        let seen = &report.sessions;
        assert_eq!((seen.left_to_drain, seen.lost, seen.unobserved), expected, "{pods:?}");
        report.fold(&Observation::Streams(&[api("b", -9, 0)]), at(26));
        let later = &report.sessions;
        assert_eq!(later.unobserved, expected.2, "from here on somebody watches: {pods:?}");
    }
}

#[test]
fn a_report_of_an_operator_that_did_not_look_for_lost_ones_is_gone_on_with() {
    let mut old: serde_json::Value = serde_json::from_str(&stored(&report())).unwrap();
    old["sessions"] = json!({
        "openAtStart": 4, "open": 4, "resumed": 2, "resumedWithGap": 0, "cut": 0, "leftToDrain": 1,
        "apis": {"a": {"open": 4, "resumed": 2, "resumedWithGap": 0, "cut": 0}},
    });
    let mut report: UpdateReport = serde_json::from_value(old).unwrap();
    assert_eq!((report.sessions.longest_gap(), report.sessions.gaps_unknown()), (None, 2));
    report.resume(at(5));
    report.fold(&Observation::Streams(&[lost(3, streams("a", -9, (4, 2, 0)))]), at(6));
    assert_eq!(report.sessions.lost, 0, "it was restarted before");
    report.fold(&Observation::Streams(&[lost(4, anew(api("a", -9, 0)))]), at(8));
    assert_eq!((report.sessions.lost, report.sessions.carried()), (4, 3));
}

#[test]
fn the_longest_gap_of_a_session_is_one_of_this_update() {
    let gaps = |count, sum_milliseconds| Gaps { count, sum_milliseconds, within: vec![] };
    let says = |name: &str, made, resumed, gaps| {
        let mut pod = streams(name, made, (2, resumed, 0));
        pod.said = pod.said.map(|said| ApiStreams { gaps, ..said });
        pod
    };
    let mut report = report();
    let mut look = |pods: &[ApiPod]| {
        report.fold(&Observation::Streams(pods), at(1));
        (report.summary("r").longest_session_gap_milliseconds, report.sessions.gaps_unknown())
    };
    assert_eq!(look(&[says("a", -9, 3, gaps(3, 70_000))]), (Some(0), 0), "those were before");
    assert_eq!(look(&[says("a", -9, 4, gaps(4, 70_120))]), (Some(120), 0));
    assert_eq!(look(&[says("a", -9, 5, gaps(5, 70_150)), says("n", 1, 1, gaps(1, 40))]), (Some(120), 0));
    assert_eq!(
        look(&[says("a", -9, 5, gaps(5, 70_150)), says("old", 1, 2, Gaps::default())]),
        (Some(120), 2),
        "one doesn't say"
    );
}

#[test]
fn a_virt_api_is_read_from_its_pod() {
    let read = |deleting: bool, status: serde_json::Value| {
        let mut object = json!({
            "metadata": {"name": "p", "creationTimestamp": at(3).to_string()}, "status": {"containerStatuses": [status]},
        });
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!(at(9).to_string());
        }
        let pod = ApiPod::of(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!((pod.name.as_str(), pod.made, pod.deleting, pod.said), ("p", at(3), deleting, None));
        pod.lost_processes
    };
    let status = |restarts: u32, state: serde_json::Value, last: serde_json::Value| {
        json!({
            "name": "virt-api", "image": "", "imageID": "", "ready": false, "restartCount": restarts,
            "state": state, "lastState": last,
        })
    };
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let (runs, waits, none) = (json!({"running": {}}), json!({"waiting": {}}), json!({}));
    // told to end, restarts, state, the state before: processes that are lost
    let table = [
        (false, 0, &waits, &none, 0),
        (false, 0, &runs, &none, 0),
        (false, 0, &ended(137), &none, 1),
        (false, 0, &ended(0), &none, 1),
        (false, 0, &waits, &ended(137), 1),
        (false, 1, &runs, &ended(137), 1),
        (false, 1, &waits, &ended(1), 2),
        (true, 1, &runs, &ended(137), 1),
        (true, 0, &ended(0), &none, 0),
        (true, 0, &ended(137), &none, 1),
    ];
    for (deleting, restarts, state, last, expected) in table {
        let said = format!("{deleting} {restarts} {state} {last}");
        assert_eq!(read(deleting, status(restarts, state.clone(), last.clone())), expected, "{said}");
    }
}

fn moved(uid: &str, ended: Option<i64>, failed: Option<&str>, downtime: Option<u64>) -> Moved {
    let fate = ended.map(|ended| Fate { at: at(ended), failed: failed.map(str::to_owned) });
    Moved { uid: uid.into(), name: format!("ns/{uid}"), fate, downtime_milliseconds: downtime }
}

#[test]
fn migrations_count_that_were_in_flight_at_some_time() {
    let mut report = report();
    let first = [
        moved("before", Some(-5), None, Some(900)),
        moved("x", None, None, None),
        moved("y", None, None, None),
    ];
    report.fold(&Observation::Migrations(&first), at(1));
    assert_eq!((report.migrations.in_flight, report.migrations.completed), (2, 0));
    let second = [
        moved("x", Some(3), None, Some(80)),
        moved("y", Some(4), Some("no room"), None),
        moved("z", Some(5), None, Some(20)),
    ];
    report.fold(&Observation::Migrations(&second), at(6));
    report.fold(&Observation::Migrations(&second), at(7));
    let seen = &report.migrations;
    assert_eq!((seen.in_flight, seen.completed, seen.failed), (0, 2, 1), "each is counted once");
    assert_eq!(seen.longest_downtime_milliseconds, Some(80));
    assert_eq!(seen.failures[0].why, "no room");
}

#[test]
fn those_that_are_in_flight_when_all_is_over_were_carried() {
    let mut report = report();
    let all = [moved("slow", None, None, None), moved("x", None, None, None), moved("y", None, None, None)];
    report.fold(&Observation::Migrations(&all), at(1));
    assert_eq!(report.summary("r").migrations, 3, "while it goes on, too");
    let all = [
        moved("slow", None, None, None),
        moved("x", Some(3), None, Some(80)),
        moved("y", Some(4), Some("no room"), None),
    ];
    report.fold(&Observation::Migrations(&all), at(6));
    report.end(at(7), Outcome::Completed);
    let short = report.summary("r");
    assert_eq!((short.migrations, short.migrations_failed), (3, 1));
    assert_eq!(report.migrations.in_flight, 1, "the whole one says that it wasn't over");
}

#[test]
fn a_migration_is_read_from_its_object() {
    let read = |status: serde_json::Value| {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"name": "m", "namespace": "n", "uid": "u"},
            "spec": {"vmiName": "v"}, "status": status,
        });
        Moved::of(&serde_json::from_value(object).unwrap())
    };
    assert_eq!(read(json!({"phase": "Running"})).fate, None);
    let reached = json!([{"phase": "Failed", "phaseTransitionTimestamp": at(7).to_string()}]);
    let failed = read(json!({
        "phase": "Failed", "phaseTransitionTimestamps": reached, "migrationState": {"failed": true, "failureReason": "why"},
    }));
    assert_eq!(failed.fate, Some(Fate { at: at(7), failed: Some("why".into()) }));
    let done = read(json!({
        "phase": "Succeeded", "migrationState": {"endTimestamp": at(9).to_string(), "downtimeMilliseconds": 41},
    }));
    assert_eq!((done.fate, done.downtime_milliseconds), (Some(Fate { at: at(9), failed: None }), Some(41)));
}

/// A pod of virt-handler: made, ready, told to end.
fn handler(name: &str, node: &str, times: (i64, Option<i64>, Option<i64>)) -> Pod {
    let (made, ready, told) = times;
    let (created, ready_since, deleting_since) = (at(made), ready.map(at), told.map(at));
    Pod { created, ready_since, deleting_since, ..pod("virt-handler", name, node) }
}

#[test]
fn nodes_say_when_they_were_replaced() {
    let mut report = report();
    let mut look = |now: i64, pods: Vec<Pod>| {
        let mut world = observed();
        world.pods = pods;
        report.fold(&Observation::World(&world, &plan(Stage::Handlers)), at(now));
        report.components["virt-handler"].clone()
    };
    let old = |node: &str, told| handler(&format!("old-{node}"), node, (-90, Some(-80), told));
    look(1, vec![old("a", None), old("b", None)]);
    look(3, vec![old("a", None), old("b", None), handler("new-a", "a", (2, None, None))]);
    look(9, vec![old("a", Some(7)), old("b", None), handler("new-a", "a", (2, Some(6), None))]);
    let seen = look(
        20,
        vec![
            old("b", Some(18)),
            handler("new-a", "a", (2, Some(6), None)),
            handler("new-b", "b", (11, Some(16), None)),
        ],
    );
    let times = |created, ready, old_told, old_gone| Times {
        created: Some(created),
        ready: Some(ready),
        old_told: Some(old_told),
        old_gone,
    };
    assert_eq!(seen.nodes["a"], times(2, 6, 7, Some(20)));
    assert_eq!(seen.nodes["b"], times(11, 16, 18, None));
    assert_eq!((seen.times, seen.last_ready, seen.old_left), (times(2, 6, 18, None), Some(16), 1));
    assert_eq!(report.stages, [StageReached { stage: "Handlers".into(), at: at(1) }]);
}

/// A report of so many nodes, of which each took longer than the one before.
fn large(nodes: i64, name: impl Fn(i64) -> String) -> UpdateReport {
    let mut report = report();
    let times =
        |i: i64| Times { created: Some(i), ready: Some(2 * i), old_told: Some(2 * i), old_gone: Some(2 * i) };
    let handlers = report.components.entry("virt-handler".into()).or_default();
    handlers.nodes = (0..nodes).map(|i| (name(i), times(i))).collect();
    let words = "w".repeat(2000);
    for i in 0..200 {
        asked(&mut report, &[(i, i, Some(&words))]);
    }
    let many: Vec<Moved> = (0..20_000).map(|i| moved(&format!("{i:036}-x"), Some(5), None, None)).collect();
    let uids: Vec<Moved> =
        many.into_iter().enumerate().map(|(i, one)| Moved { uid: format!("{i:08x}-aaaa"), ..one }).collect();
    report.fold(&Observation::Migrations(&uids), at(9));
    report
}

#[test]
fn five_thousand_nodes_fit_into_a_config_map() {
    let report = large(5000, |i| format!("ip-10-0-{i:04}.eu-central-1.compute.internal"));
    let text = stored(&report);
    assert!(text.len() <= LIMIT, "{}", text.len());
    let back: UpdateReport = serde_json::from_str(&text).unwrap();
    assert_eq!(back, report, "nothing is left out");
}

#[test]
fn nodes_that_do_not_fit_are_left_out_fastest_first_and_counted() {
    let report = large(20_000, |i| format!("{i:0253}"));
    let text = stored(&report);
    assert!(text.len() <= LIMIT, "{}", text.len());
    let back: UpdateReport = serde_json::from_str(&text).unwrap();
    let handlers = &back.components["virt-handler"];
    assert_eq!(handlers.nodes.len() + handlers.nodes_left_out, 20_000);
    assert!(handlers.nodes.len() >= NODES_KEPT);
    assert!(
        handlers.nodes.contains_key(&format!("{:0253}", 19_999))
            && !handlers.nodes.contains_key(&"0".repeat(253))
    );
}

fn record(started: i64, completed: Option<i64>, failed: Option<&str>) -> UpdateRecord {
    UpdateRecord {
        from: Some("v0.17.0".into()),
        to: "v0.18.0".into(),
        started: at(started),
        completed: completed.map(at),
        failed: failed.map(str::to_owned),
        superseded_by: None,
        report: None,
    }
}

fn failing(stage: Stage, action: OnFailure) -> Plan {
    let failed = FailedUpdate {
        deployment_id: "d".into(),
        version: "v0.18.0".into(),
        component: "virt-handler".into(),
        node: None,
        cause: "it crashes".into(),
        at: at(50),
        action,
        retry: None,
    };
    Plan { failed: Some(failed), ..plan(stage) }
}

#[test]
fn a_report_is_due_while_an_update_goes_on_and_on_the_way_back() {
    let due = |history: &[UpdateRecord], plan: &Plan| subject(history, plan).map(|subject| subject.started);
    let (moving, settled) = (plan(Stage::Handlers), plan(Stage::Settled));
    assert_eq!(due(&[], &moving), None);
    assert_eq!(due(&[record(7, None, None)], &moving), Some(at(7)));
    assert_eq!(due(&[record(7, None, None)], &plan(Stage::Blocked)), Some(at(7)));
    assert_eq!(due(&[record(7, Some(9), None)], &settled), None);
    assert_eq!(
        due(&[UpdateRecord { from: None, ..record(7, None, None) }], &moving),
        None,
        "an installation"
    );
    let failed = [record(7, Some(50), Some("it crashes"))];
    assert_eq!(due(&failed, &failing(Stage::Handlers, OnFailure::Rollback)), Some(at(7)));
    assert_eq!(due(&failed, &failing(Stage::Settled, OnFailure::Rollback)), None, "it is back");
    assert_eq!(due(&failed, &failing(Stage::Handlers, OnFailure::Pause)), None, "it stays where it is");
    assert_eq!(due(&failed, &moving), None, "that failure is another's");
    let superseded = UpdateRecord {
        superseded_by: Some("v0.17.0".into()),
        ..record(7, Some(50), Some("given up for v0.17.0"))
    };
    assert_eq!(due(std::slice::from_ref(&superseded), &settled), None);
    assert_eq!(due(&[superseded, record(50, None, None)], &moving), Some(at(50)));
}

#[test]
fn an_update_ends_as_its_record_says() {
    let report = UpdateReport::begin(&subject_of(7), "Update", at(7));
    let end = |history: &[UpdateRecord], plan: &Plan| ending(&report, history, plan, at(100));
    let (moving, settled) = (plan(Stage::Handlers), plan(Stage::Settled));
    assert_eq!(end(&[record(7, None, None)], &moving), None);
    assert_eq!(end(&[record(7, Some(60), None)], &settled), Some((at(60), Outcome::Completed)));
    let cause = "it crashes".to_owned();
    let failed = [record(7, Some(50), Some("it crashes"))];
    assert_eq!(end(&failed, &failing(Stage::Handlers, OnFailure::Rollback)), None);
    assert_eq!(
        end(&failed, &failing(Stage::Settled, OnFailure::Rollback)),
        Some((at(100), Outcome::Failed { cause: cause.clone(), returned: true }))
    );
    assert_eq!(
        end(&failed, &failing(Stage::Handlers, OnFailure::Pause)),
        Some((at(50), Outcome::Failed { cause, returned: false }))
    );
    let superseded = UpdateRecord {
        superseded_by: Some("v0.19.0".into()),
        ..record(7, Some(30), Some("given up for v0.19.0"))
    };
    let outcome = || Outcome::Superseded { by: "v0.19.0".into() };
    assert_eq!(end(std::slice::from_ref(&superseded), &moving), Some((at(30), outcome())));
    assert_eq!(end(&[superseded, record(30, None, None)], &settled), Some((at(30), outcome())));
    // an operator that keeps no record of it
    let next = UpdateRecord { to: "v0.19.0".into(), ..record(30, None, None) };
    assert_eq!(end(&[next], &moving), Some((at(30), Outcome::Superseded { by: "v0.19.0".into() })));
    assert_eq!(end(&[], &settled), Some((at(100), Outcome::Superseded { by: "v0.18.0".into() })));
}

#[test]
fn later_reports_have_later_names() {
    assert!(name_of(ms(-1)) < name_of(ms(0)) && name_of(ms(0)) < name_of(at(1_000_000_000)));
}

#[test]
fn a_report_as_it_is_stored() {
    let mut report = report();
    let mut world = observed();
    world.pods =
        vec![handler("old", "a", (-90, Some(-80), Some(8))), handler("new", "a", (2, Some(6), None))];
    report.fold(&Observation::World(&world, &plan(Stage::Handlers)), at(9));
    asked(&mut report, &[(0, 10, None), (500, 510, Some("no endpoints")), (1000, 1010, None)]);
    let terms = [term("a", -9000, 2500, true), term("b", 2600, 2600, false)];
    report.fold(&Observation::Terms("virt-controller", &terms), at(9));
    report.fold(&Observation::Streams(&[streams("virt-api-x", -9, (1, 0, 0))]), at(9));
    report.fold(&Observation::Migrations(&[moved("m", Some(3), None, Some(80))]), at(9));
    report.end(at(10), Outcome::Completed);
    let value: serde_json::Value = serde_json::from_str(&stored(&report)).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&report.summary("kubevirt-update-report-1")).unwrap()
    );
    assert_eq!(serde_json::from_value::<UpdateReport>(value).unwrap(), report);
}
