//! The decision as a table and as properties; the elector against an API server in memory, on a
//! paused clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::client::Body;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::decision::{held, is_valid, must_give_back, released, valid_until};
use super::{Decision, LeaseConfig, LeaseError, Observation, Term, TermOver, Timing, evaluate, run, term};
use crate::shutdown::Shutdown;

fn spec(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: holder.map(str::to_owned),
        lease_duration_seconds: seconds,
        ..LeaseSpec::default()
    }
}

#[tokio::test]
async fn table() {
    let seconds = Duration::from_secs;
    let at = Instant::now();
    let cases = [
        ("no lease", None, 0, Decision::Acquire),
        ("no holder", Some(spec(None, Some(15))), 0, Decision::Acquire),
        ("released", Some(spec(Some(""), Some(1))), 0, Decision::Acquire),
        ("ours", Some(spec(Some("me"), Some(15))), 3, Decision::Renew),
        ("ours, long over", Some(spec(Some("me"), Some(15))), 99, Decision::Renew),
        ("theirs, just seen", Some(spec(Some("you"), Some(15))), 0, Decision::Wait(seconds(15))),
        ("theirs, not renewed for 14 s", Some(spec(Some("you"), Some(15))), 14, Decision::Wait(seconds(1))),
        ("theirs, over", Some(spec(Some("you"), Some(15))), 15, Decision::Acquire),
        ("theirs, without a duration", Some(spec(Some("you"), None)), 0, Decision::Acquire),
        ("theirs, with a bad duration", Some(spec(Some("you"), Some(-1))), 0, Decision::Acquire),
    ];
    for (case, lease, age, expected) in cases {
        assert_eq!(evaluate(lease.as_ref(), "me", at, at + seconds(age)), expected, "{case}");
    }
}

#[tokio::test]
async fn age_is_counted_on_our_clock_from_the_last_change() {
    let mut observation = Observation::default();
    let start = Instant::now();
    let mut lease = spec(Some("you"), Some(15));
    // A holder whose clock is a day off is believed all the same.
    lease.renew_time = Some(MicroTime(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(observation.observe(&lease, start), start);
    assert_eq!(observation.observe(&lease, start + Duration::from_secs(14)), start);
    lease.renew_time = Some(MicroTime(jiff::Timestamp::from_second(1).unwrap()));
    let renewed = start + Duration::from_secs(14);
    assert_eq!(observation.observe(&lease, renewed), renewed);
}

#[test]
fn records_keep_clients_goes_format() {
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    let duration = Duration::from_secs(15);
    let first = held(None, "a", duration, at(1));
    assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
    let renewed = held(Some(&first), "a", duration, at(3));
    assert_eq!((&renewed.acquire_time, &renewed.renew_time), (&first.acquire_time, &Some(MicroTime(at(3)))));
    let taken = held(Some(&renewed), "b", duration, at(20));
    assert_eq!((taken.lease_transitions, &taken.acquire_time), (Some(1), &Some(MicroTime(at(20)))));
    for (previous, transitions) in [(Some(&taken), Some(1)), (None, None)] {
        let free = released(previous, at(21));
        assert_eq!(
            (free.holder_identity.as_deref(), free.lease_duration_seconds, free.lease_transitions),
            (Some(""), Some(1), transitions)
        );
    }
}

#[test]
fn what_a_process_that_ends_gives_back() {
    let cases = [
        ("ours", Some(Some("me")), false, true),
        ("ours, and a renewal is on its way", Some(Some("me")), true, true),
        ("theirs", Some(Some("you")), false, false),
        ("theirs and over, and ours is on its way", Some(Some("you")), true, true),
        ("nobody's", Some(Some("")), false, false),
        ("nobody's, and ours is on its way", Some(None), true, true),
        ("none", None, false, false),
        ("none, and ours is on its way", None, true, true),
    ];
    for (case, holder, may_land, expected) in cases {
        let lease = holder.map(|holder| spec(holder, Some(15)));
        assert_eq!(must_give_back(lease.as_ref(), "me", may_land), expected, "{case}");
    }
}

#[tokio::test]
async fn until_when_a_leader_may_write() {
    let (renewed, ms) = (Instant::now(), Duration::from_millis);
    let timing = Timing::default();
    let until = valid_until(renewed, &timing);
    let cases = [
        ("just renewed", 0, true),
        ("between two renewals", 2_000, true),
        ("the last moment", 9_999, true),
        ("the renew deadline", 10_000, false),
        ("nobody else leads yet, but what is sent now may be late", 14_999, false),
        ("thawed", 30_000, false),
    ];
    for (case, age, expected) in cases {
        assert_eq!(is_valid(until, renewed + ms(age)), expected, "{case}");
    }
    assert!(until + ms(4_999) < renewed + timing.duration, "there is time for what is on its way");
}

proptest! {
    /// Nobody takes what another holds before it was unchanged for its whole duration, and nobody waits longer.
    #[test]
    fn a_held_lease_is_taken_exactly_when_it_is_over(
        holder in prop_oneof![Just("me"), Just("you"), Just("")],
        duration in 1u64..60,
        age in 0u64..120,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let at = Instant::now();
        let lease = spec(Some(holder), Some(duration as i32));
        let decision = evaluate(Some(&lease), "me", at, at + Duration::from_secs(age));
        match holder {
            "me" => assert_eq!(decision, Decision::Renew),
            "" => assert_eq!(decision, Decision::Acquire),
            _ if age >= duration => assert_eq!(decision, Decision::Acquire),
            _ => assert_eq!(decision, Decision::Wait(Duration::from_secs(duration - age))),
        }
    }

    /// Whoever follows whom, transitions count the changes of the holder.
    #[test]
    fn transitions_count_changes(holders in proptest::collection::vec(0u8..3, 1..20).prop_map(|v| v)) {
        let mut lease: Option<LeaseSpec> = None;
        let mut changes = 0;
        for holder in holders {
            let name = format!("p{holder}");
            if lease.as_ref().is_some_and(|l| l.holder_identity.as_deref() != Some(&name)) {
                changes += 1;
            }
            lease = Some(held(lease.as_ref(), &name, Duration::from_secs(15), jiff::Timestamp::UNIX_EPOCH));
            assert_eq!(lease.as_ref().and_then(|l| l.lease_transitions), Some(changes));
        }
    }
}

/// One lease, with the API server's optimistic locking.
#[derive(Clone, Default)]
struct Store {
    lease: Arc<Mutex<Option<Lease>>>,
    down: CancellationToken,
    trouble: Arc<Mutex<Trouble>>,
}

/// What is between the replicas and the lease.
#[derive(Default)]
struct Trouble {
    /// For how long a write is on its way. It arrives, though its sender may have gone meanwhile.
    way: Duration,
    /// Writes that are on their way.
    under_way: usize,
    /// So many reads are refused.
    unread: usize,
}

impl Store {
    fn client(&self, down: &CancellationToken) -> Client {
        let store = Self { down: down.clone(), ..self.clone() };
        Client::new(tower::service_fn(move |request| store.clone().answer(request)), "default")
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        if self.down.is_cancelled() {
            return Ok(status(503, "ServiceUnavailable"));
        }
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        if parts.uri.query().is_some_and(|query| query.contains("fieldSelector")) {
            // No watch here: standbys must do with looking.
            return Ok(status(403, "Forbidden"));
        }
        let sent: Option<Lease> = serde_json::from_slice(&body).ok();
        let way = {
            let mut trouble = self.trouble.lock().unwrap();
            if parts.method == Method::GET && trouble.unread > 0 {
                trouble.unread -= 1;
                return Ok(status(503, "ServiceUnavailable"));
            }
            trouble.way
        };
        if parts.method == Method::GET || way.is_zero() {
            return Ok(self.arrive(&parts.method, sent));
        }
        self.trouble.lock().unwrap().under_way += 1;
        let arrival = async move {
            sleep(way).await;
            self.trouble.lock().unwrap().under_way -= 1;
            self.arrive(&parts.method, sent)
        };
        Ok(tokio::spawn(arrival).await.unwrap())
    }

    fn arrive(&self, method: &Method, sent: Option<Lease>) -> Response<Body> {
        let mut stored = self.lease.lock().unwrap();
        let version =
            |lease: &Option<Lease>| lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
        let next = |sent: Lease, after: Option<String>| {
            let mut lease = sent;
            let number = after.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) + 1;
            lease.metadata.resource_version = Some(number.to_string());
            lease
        };
        match (method, stored.is_some()) {
            (&Method::GET, false) => return status(404, "NotFound"),
            (&Method::GET, true) => (),
            (&Method::POST, true) => return status(409, "AlreadyExists"),
            (&Method::PUT, true) if version(&sent) != version(&stored) => return status(409, "Conflict"),
            (&Method::POST | &Method::PUT, _) => *stored = Some(next(sent.unwrap(), version(&stored))),
            (method, _) => panic!("unexpected {method}"),
        }
        let lease = stored.as_ref().map(|lease| serde_json::to_vec(lease).unwrap()).unwrap();
        Response::new(Body::from(lease))
    }

    fn holder(&self) -> Option<String> {
        self.lease.lock().unwrap().as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn is_free(&self) -> bool {
        self.holder().is_none_or(|holder| holder.is_empty())
    }

    /// Somebody takes the lease, whoever holds it.
    fn take(&self, who: &str) {
        let mut lease = Lease { spec: Some(spec(Some(who), Some(15))), ..Lease::default() };
        lease.metadata.resource_version = Some("1000".to_owned());
        *self.lease.lock().unwrap() = Some(lease);
    }

    /// From now on writes take so long.
    fn slow_down(&self, way: Duration) {
        self.trouble.lock().unwrap().way = way;
    }

    fn refuse_reads(&self, unread: usize) {
        self.trouble.lock().unwrap().unread = unread;
    }

    /// Waits until a write is on its way.
    async fn write_sent(&self) {
        while self.trouble.lock().unwrap().under_way == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let body =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
    Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap()
}

/// Who leads now, and when each began; panics when two do.
#[derive(Clone, Default)]
struct Watch {
    leading: Arc<Mutex<Option<String>>>,
    began: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Watch {
    fn begin(&self, who: &str) {
        let before = self.leading.lock().unwrap().replace(who.to_owned());
        assert_eq!(before, None, "{who} leads while another still acts");
        self.began.lock().unwrap().push((who.to_owned(), Instant::now()));
    }
    fn end(&self) {
        *self.leading.lock().unwrap() = None;
    }
    fn began(&self) -> Vec<(String, Instant)> {
        self.began.lock().unwrap().clone()
    }
}

type Replica = tokio::task::JoinHandle<Result<Option<()>, LeaseError>>;

/// A replica whose work takes `wind_down` to stop.
fn replica(client: Client, who: &'static str, watch: &Watch, wind_down: Duration) -> (Shutdown, Replica) {
    let shutdown = Shutdown::new();
    let (stop, watch) = (shutdown.clone(), watch.clone());
    let task = tokio::spawn(async move {
        let config = LeaseConfig::new("virt-controller", "kubevirt", who);
        run(client, config, &stop, async |term| {
            watch.begin(who);
            term.cancelled().await;
            sleep(wind_down).await;
            watch.end();
        })
        .await
    });
    (shutdown, task)
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_over_in_less_than_two_seconds_and_never_to_two() {
    let (store, watch, up) = (Store::default(), Watch::default(), CancellationToken::new());
    let (first, first_task) = replica(store.client(&up), "a", &watch, Duration::from_secs(20));
    sleep(Duration::from_secs(3)).await;
    let (_second, _task) = replica(store.client(&up), "b", &watch, Duration::ZERO);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(store.holder().as_deref(), Some("a"));
    first.start();
    // Longer than the lease: it is kept while the work winds down.
    first_task.await.unwrap().unwrap();
    let released = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let began = watch.began();
    assert_eq!(began.len(), 2);
    assert!(began[1].1 - released < Duration::from_secs(2), "{:?}", began[1].1 - released);
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_stops_before_another_can_start() {
    let (store, watch) = (Store::default(), Watch::default());
    let (cut, up) = (CancellationToken::new(), CancellationToken::new());
    let (_first, first_task) = replica(store.client(&cut), "a", &watch, Duration::from_secs(4));
    sleep(Duration::from_secs(3)).await;
    let (_second, _task) = replica(store.client(&up), "b", &watch, Duration::ZERO);
    sleep(Duration::from_secs(3)).await;
    let cut_at = Instant::now();
    cut.cancel();
    sleep(Duration::from_secs(20)).await;
    let began = watch.began();
    assert_eq!(began.iter().map(|(who, _)| who.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(began[1].1 - cut_at <= Duration::from_secs(17), "{:?}", began[1].1 - cut_at);
    assert!(!first_task.is_finished(), "it waits for the lease again");
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_stop_ends_the_process() {
    let (store, cut) = (Store::default(), CancellationToken::new());
    let watch = Watch::default();
    let (_shutdown, task) = replica(store.client(&cut), "a", &watch, Duration::from_secs(3600));
    sleep(Duration::from_secs(3)).await;
    cut.cancel();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "lease kubevirt/virt-controller is lost and the leader's work has not stopped"
    );
}

/// A stop in the middle of a renewal: what is read then may be older than what arrives next.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_stopped_while_it_renews_leaves_the_lease_to_nobody() {
    let ms = Duration::from_millis;
    for (way, unread) in [(100, 0), (100, 2), (1_000, 0), (1_000, 3), (3_000, 0), (3_000, 1)] {
        for after in [0, way / 2, way - 1, way, way + 1] {
            let (store, watch) = (Store::default(), Watch::default());
            let (leader, task) =
                replica(store.client(&CancellationToken::new()), "a", &watch, Duration::ZERO);
            sleep(ms(1_000)).await;
            assert_eq!(store.holder().as_deref(), Some("a"));
            store.slow_down(ms(way));
            store.write_sent().await;
            sleep(ms(after)).await;
            store.refuse_reads(unread);
            leader.start();
            assert_eq!(task.await.unwrap().unwrap(), Some(()));
            let case = format!("a way of {way} ms, stopped after {after} ms, {unread} reads refused");
            assert!(store.is_free(), "{case}");
            sleep(ms(10_000)).await;
            assert!(store.is_free(), "{case}: a write came later");
        }
    }
}

/// A stop in the middle of taking the lease: a write that nobody waits for may take it for a process that has ended.
#[tokio::test(start_paused = true)]
async fn a_standby_that_is_stopped_while_it_takes_the_lease_leaves_it_to_nobody() {
    let ms = Duration::from_millis;
    for (name, holder) in [("no lease", None), ("free", Some("")), ("over", Some("z"))] {
        for (way, unread) in [(100, 0), (1_000, 0), (1_000, 2), (3_000, 0)] {
            for after in [0, way / 2, way - 10] {
                let (store, watch) = (Store::default(), Watch::default());
                if let Some(holder) = holder {
                    store.take(holder);
                }
                store.slow_down(ms(way));
                let client = store.client(&CancellationToken::new());
                let (standby, task) = replica(client, "a", &watch, Duration::ZERO);
                store.write_sent().await;
                sleep(ms(after)).await;
                store.refuse_reads(unread);
                standby.start();
                assert_eq!(task.await.unwrap().unwrap(), None);
                let case = format!("{name}, a way of {way} ms, stopped after {after} ms, {unread} refused");
                assert!(store.is_free(), "{case}");
                sleep(ms(10_000)).await;
                assert!(store.is_free(), "{case}: a write came later");
                assert_eq!(watch.began(), [], "{case}");
            }
        }
    }
}

/// What another holds isn't touched by a standby that ends, and an API server that is down holds nobody up for long.
#[tokio::test(start_paused = true)]
async fn giving_back_touches_only_what_may_be_ours_and_ends() {
    let (store, watch, up) = (Store::default(), Watch::default(), CancellationToken::new());
    let (leader, leader_task) = replica(store.client(&up), "a", &watch, Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    let (standby, standby_task) = replica(store.client(&up), "b", &watch, Duration::ZERO);
    sleep(Duration::from_secs(5)).await;
    standby.start();
    standby_task.await.unwrap().unwrap();
    assert_eq!(store.holder().as_deref(), Some("a"));
    up.cancel();
    let stopped = Instant::now();
    leader.start();
    leader_task.await.unwrap().unwrap();
    assert!(stopped.elapsed() <= Duration::from_secs(10), "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_term_ends_by_the_clock_alone() {
    let seconds = Duration::from_secs;
    let (mandate, term) = term::begin(Instant::now() + seconds(10));
    assert_eq!(term.check(), Ok(()));
    tokio::time::advance(seconds(9)).await;
    assert_eq!(term.check(), Ok(()));
    mandate.prolong(Instant::now() + seconds(10));
    tokio::time::advance(seconds(9)).await;
    assert_eq!(term.clone().check(), Ok(()));
    // Nobody cancels anything: all stood still.
    tokio::time::advance(seconds(1)).await;
    assert_eq!((term.check(), term.token().is_cancelled()), (Err(TermOver), false));
    mandate.prolong(Instant::now() + seconds(10));
    mandate.end();
    assert_eq!(term.check(), Err(TermOver));
}

/// Work that checks its term writes nothing after a process was frozen, whichever of its tasks runs first when it goes on.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_frozen_writes_nothing_when_it_goes_on() {
    let (store, terms) = (Store::default(), Arc::new(Mutex::new(Vec::<Term>::new())));
    let (client, shutdown) = (store.client(&CancellationToken::new()), Shutdown::new());
    let (kept, stop) = (terms.clone(), shutdown.clone());
    let task = tokio::spawn(async move {
        let config = LeaseConfig::new("virt-controller", "kubevirt", "a");
        run(client, config, &stop, async |term: Term| {
            kept.lock().unwrap().push(term.clone());
            term.cancelled().await;
        })
        .await
    });
    let valid = |index: usize| terms.lock().unwrap()[index].check();
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(valid(0), Ok(()), "it is renewed");
    }
    // Nothing of it runs for 30 s, in which another takes the lease, and dies.
    store.take("b");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(valid(0), Err(TermOver));
    sleep(Duration::from_secs(20)).await;
    assert_eq!((valid(0), valid(1)), (Err(TermOver), Ok(())), "a new term, and the old one stays over");
    shutdown.start();
    assert_eq!(task.await.unwrap().unwrap(), Some(()));
    assert_eq!((valid(0), valid(1)), (Err(TermOver), Err(TermOver)), "its work has ended");
}
