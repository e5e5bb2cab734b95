//! Every order of events of three candidates for a lease: clocks that run apart, requests that are late or lost, answers
//! that are lost, processes that die, leaders that give the lease back. What is decided and what is written is decided by
//! the real functions; the steps between them are the elector's, told here as data.
//!
//! Time is in units. What a leader does ends a unit after it has found out that it leads no more. Requests arrive late and
//! after their sender has given them up; the version that they name protects the lease from them.
//!
//! Two states are the same when they differ in absolute times and versions only, and in which candidate is which.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use stateright::{Checker, Model, Property};
use tokio::time::Instant;

use super::decision::{held, must_give_back, released};
use super::{Decision, Observation, evaluate};

const NEVER_TWO: &str = "never do two lead";
const LEFT: &str = "what was given back stays so";
const SOMEBODY: &str = "when all is calm somebody leads";

/// Requests of one candidate that may be on their way at once: one that it waits for, and one that it has given up.
const ON_THE_WAY: usize = 2;
/// When all is calm, somebody leads after so many units.
const CALM: usize = 30;

/// The lease as the API server has it.
#[derive(Debug, Clone)]
struct Stored {
    version: u64,
    spec: LeaseSpec,
}

/// A write on its way.
#[derive(Debug, Clone)]
struct Request {
    based_on: Option<u64>,
    spec: LeaseSpec,
    sent: u64,
    /// Its sender waits for the answer.
    awaited: bool,
}

#[derive(Debug, Clone, Default)]
struct Candidate {
    clock: u64,
    up: bool,
    leads: bool,
    renewed: u64,
    observation: Observation,
    held: Option<Stored>,
    /// Since when it waits for an answer.
    waits: Option<u64>,
    requests: Vec<Request>,
    /// The version that its last write of unknown fate replaces.
    unsettled: Option<Option<u64>>,
    /// Since when it gives the lease back.
    leaving: Option<u64>,
    /// It has ended in the belief that it doesn't hold the lease.
    left: bool,
}

#[derive(Debug, Clone)]
struct State {
    lease: Option<Stored>,
    candidates: Vec<Candidate>,
    /// Deaths and hand-backs that may still happen.
    misfortunes: u8,
    /// What tells this state from others.
    print: u64,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.print.hash(into);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A unit passes on a candidate's clock.
    Tick(usize),
    /// It looks at the lease, and sends what follows.
    Attempt(usize),
    /// A request arrives, and its answer too.
    Answer(usize, usize),
    /// A request arrives, and its answer is lost.
    NoAnswer(usize, usize),
    /// A request is lost.
    Lose(usize, usize),
    /// The process dies.
    Die(usize),
    /// It starts again.
    Start(usize),
    /// It is told to stop, and the leader's work has ended: it begins to give the lease back.
    GiveBack(usize),
}

/// The elector's times, in units, and how far two clocks may run apart: at least a unit, or none could begin.
#[derive(Debug, Clone, Copy)]
struct Times {
    duration: u64,
    renew_deadline: u64,
    retry: u64,
    call: u64,
    /// For how long a process that ends tries to give the lease back.
    release: u64,
    apart: u64,
}

/// How a process that ends gives the lease back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// As it is done.
    Settled,
    /// A refusal is taken for the end.
    Once,
    /// What is on its way to take the lease is forgotten.
    Forgetful,
}

struct Election {
    candidates: usize,
    times: Times,
    /// Writes name the version that was seen.
    guarded: bool,
    release: Release,
    misfortunes: u8,
    start: Instant,
    calm: Mutex<HashSet<u64>>,
}

fn name(index: usize) -> String {
    format!("candidate-{index}")
}

fn holds(spec: &LeaseSpec, index: usize) -> bool {
    spec.holder_identity.as_deref() == Some(&name(index))
}

impl Election {
    fn at(&self, clock: u64) -> Instant {
        self.start + Duration::from_secs(clock)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.times.duration)
    }

    /// No two records are the same, as no two moments are.
    fn moment(state: &State) -> jiff::Timestamp {
        let seconds: u64 = state.candidates.iter().map(|candidate| candidate.clock).sum();
        let version = state.lease.as_ref().map_or(0, |lease| lease.version);
        let second = i64::try_from(seconds * 1000 + version).expect("the model is short");
        jiff::Timestamp::from_second(second).expect("the model is short")
    }

    fn tick(&self, candidate: &mut Candidate) {
        candidate.clock += 1;
        let Times { renew_deadline, retry, call, release, .. } = self.times;
        let now = candidate.clock;
        let deadline = candidate.renewed + renew_deadline;
        let limit = |sent: u64| if candidate.leads { deadline.min(sent + call) } else { sent + call };
        if candidate.waits.is_some_and(|sent| now >= limit(sent)) {
            give_up(candidate);
        }
        // it notices after the pause between two attempts at the latest
        if candidate.leads && now >= deadline + retry {
            stop(candidate);
        }
        if candidate.leaving.is_some_and(|since| now >= since + release) {
            die(candidate);
        }
    }

    /// `Elector::attempt`, or `Elector::try_release` of one that ends, up to the moment when the request leaves.
    fn attempt(&self, state: &mut State, index: usize) -> Option<()> {
        let moment = Self::moment(state);
        let candidate = &mut state.candidates[index];
        if !candidate.up || candidate.waits.is_some() || candidate.requests.len() >= ON_THE_WAY {
            return None;
        }
        let current = candidate.held.take().or_else(|| state.lease.clone());
        let version = current.as_ref().map(|lease| lease.version);
        let spec = current.as_ref().map(|lease| &lease.spec);
        if candidate.leaving.is_some() {
            let may_land = candidate.unsettled == Some(version) && self.release != Release::Forgetful;
            match must_give_back(spec, &name(index), may_land) {
                true => send(candidate, version, released(spec, moment)),
                false => leave(candidate),
            }
            return Some(());
        }
        candidate.unsettled = candidate.unsettled.filter(|based_on| *based_on == version);
        let now = self.at(candidate.clock);
        let since = spec.map_or(now, |spec| candidate.observation.observe(spec, now));
        match evaluate(spec, &name(index), since, now) {
            Decision::Wait(_) => {
                if candidate.leads {
                    stop(candidate);
                }
            }
            Decision::Renew | Decision::Acquire => {
                let spec = held(spec, &name(index), self.duration(), moment);
                candidate.unsettled = Some(version);
                send(candidate, version, spec);
            }
        }
        Some(())
    }

    /// What the API server does with a request, and what its sender makes of the answer.
    fn arrive(&self, state: &mut State, index: usize, request: usize, answered: bool) {
        let request = state.candidates[index].requests.remove(request);
        let version = state.lease.as_ref().map(|lease| lease.version);
        let taken = !self.guarded || version == request.based_on;
        let stored = Stored { version: version.unwrap_or(0) + 1, spec: request.spec };
        if taken {
            state.lease = Some(stored.clone());
        }
        let candidate = &mut state.candidates[index];
        if answered && request.awaited {
            candidate.waits = None;
            if candidate.leaving.is_some() {
                if taken || self.release == Release::Once {
                    leave(candidate);
                }
            } else if taken {
                candidate.unsettled = None;
                candidate.held = Some(stored);
                candidate.renewed = request.sent;
                candidate.leads = true;
            }
        }
    }

    /// `Elector::release`: the work has ended, so nothing is done any more when the lease goes back. Nobody waits any more
    /// for a renewal, or for a write that takes the lease, which may be on its way.
    fn give_back(&self, state: &mut State, index: usize) -> Option<()> {
        let candidate = &mut state.candidates[index];
        let concerned = candidate.leads || candidate.unsettled.is_some();
        if !candidate.up || candidate.leaving.is_some() || !concerned {
            return None;
        }
        give_up(candidate);
        candidate.leads = false;
        candidate.leaving = Some(candidate.clock);
        // later where too much is on its way
        let _ = self.attempt(state, index);
        Some(())
    }

    fn follow(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick(index) => self.tick(&mut state.candidates[index]),
            Action::Attempt(index) => self.attempt(&mut state, index)?,
            Action::Answer(index, request) => self.arrive(&mut state, index, request, true),
            Action::NoAnswer(index, request) => self.arrive(&mut state, index, request, false),
            Action::Lose(index, request) => {
                state.candidates[index].requests.remove(request);
            }
            Action::Die(index) => die(&mut state.candidates[index]),
            Action::Start(index) => start(&mut state.candidates[index]),
            Action::GiveBack(index) => self.give_back(&mut state, index)?,
        }
        if matches!(action, Action::Die(_) | Action::GiveBack(_)) {
            state.misfortunes -= 1;
        }
        // what nobody waits for and what will be refused is nothing
        let version = state.lease.as_ref().map(|lease| lease.version);
        for candidate in &mut state.candidates {
            candidate.requests.retain(|one| one.awaited || !self.guarded || one.based_on == version);
        }
        state.print = self.print(&state);
        Some(state)
    }

    /// A hash of all that decides: ages, and whether versions are the present one.
    fn print(&self, state: &State) -> u64 {
        let first = state.candidates.iter().map(|candidate| candidate.clock).min().unwrap_or(0);
        let version = state.lease.as_ref().map(|lease| lease.version);
        let mut prints: Vec<u64> = state
            .candidates
            .iter()
            .enumerate()
            .map(|(index, candidate)| {
                let mut into = DefaultHasher::new();
                let now = candidate.clock;
                (now - first, candidate.up, candidate.leads, candidate.waits.map(|sent| now - sent))
                    .hash(&mut into);
                candidate.leads.then(|| now - candidate.renewed).hash(&mut into);
                (candidate.leaving.map(|since| now - since), candidate.left).hash(&mut into);
                // only one that gives the lease back asks for it
                let may_leave = state.misfortunes > 0 || candidate.leaving.is_some();
                let unsettled = candidate.unsettled.filter(|_| may_leave);
                unsettled.map(|based_on| based_on == version).hash(&mut into);
                candidate.held.as_ref().map(|lease| Some(lease.version) == version).hash(&mut into);
                let spec = state.lease.as_ref().map(|lease| &lease.spec);
                spec.map(|spec| (holds(spec, index), self.seen_for(candidate, spec))).hash(&mut into);
                for one in &candidate.requests {
                    let awaited = one.awaited.then(|| now - one.sent);
                    (one.based_on == version, holds(&one.spec, index), awaited).hash(&mut into);
                }
                into.finish()
            })
            .collect();
        prints.sort_unstable();
        let mut into = DefaultHasher::new();
        let held = state.lease.as_ref().map(|lease| lease.spec.holder_identity.as_deref() != Some(""));
        (prints, held, state.misfortunes, taken_over(state)).hash(&mut into);
        into.finish()
    }

    /// For how long a candidate has seen the present record; none when it hasn't.
    fn seen_for(&self, candidate: &Candidate, spec: &LeaseSpec) -> Option<u64> {
        let later = self.at(candidate.clock + 1);
        let since = candidate.observation.clone().observe(spec, later);
        (since != later).then(|| (later - since).as_secs().min(self.times.duration + 1))
    }

    /// Whether somebody leads, once every process is up, every clock runs alike and every request is answered.
    fn calms_down(&self, state: &State) -> bool {
        let mut known = self.calm.lock().expect("nobody has panicked");
        let mut road = vec![];
        let mut at = state.clone();
        for _ in 0..CALM {
            let leads = at.candidates.iter().any(|candidate| candidate.up && candidate.leads);
            if leads || known.contains(&at.print) {
                known.extend(road);
                return true;
            }
            road.push(at.print);
            for index in 0..self.candidates {
                while !at.candidates[index].requests.is_empty() {
                    self.arrive(&mut at, index, 0, true);
                }
                start(&mut at.candidates[index]);
                self.tick(&mut at.candidates[index]);
                // it may have nothing to send
                let _ = self.attempt(&mut at, index);
            }
            at.print = self.print(&at);
        }
        false
    }
}

/// Whether the lease has gone from one candidate to another.
fn taken_over(state: &State) -> bool {
    let transitions = state.lease.as_ref().and_then(|lease| lease.spec.lease_transitions);
    transitions.is_some_and(|transitions| transitions > 0)
}

fn start(candidate: &mut Candidate) {
    candidate.up = true;
    candidate.left = false;
}

fn send(candidate: &mut Candidate, based_on: Option<u64>, spec: LeaseSpec) {
    candidate.waits = Some(candidate.clock);
    candidate.requests.push(Request { based_on, spec, sent: candidate.clock, awaited: true });
}

fn give_up(candidate: &mut Candidate) {
    candidate.waits = None;
    candidate.requests.iter_mut().for_each(|request| request.awaited = false);
}

fn stop(candidate: &mut Candidate) {
    candidate.leads = false;
    candidate.held = None;
    give_up(candidate);
}

fn die(candidate: &mut Candidate) {
    stop(candidate);
    candidate.up = false;
    candidate.observation = Observation::default();
    candidate.unsettled = None;
    candidate.leaving = None;
}

/// It ends, and believes that it doesn't hold the lease.
fn leave(candidate: &mut Candidate) {
    die(candidate);
    candidate.left = true;
}

impl Model for Election {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let candidate = Candidate { up: true, ..Candidate::default() };
        let candidates = vec![candidate; self.candidates];
        let mut state = State { lease: None, candidates, misfortunes: self.misfortunes, print: 0 };
        state.print = self.print(&state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let first = state.candidates.iter().map(|candidate| candidate.clock).min().unwrap_or(0);
        for (index, candidate) in state.candidates.iter().enumerate() {
            if candidate.clock < first + self.times.apart {
                actions.push(Action::Tick(index));
            }
            for request in 0..candidate.requests.len() {
                let all = [Action::Answer, Action::NoAnswer, Action::Lose];
                actions.extend(all.map(|action| action(index, request)));
            }
            match candidate.up {
                true => actions.push(Action::Attempt(index)),
                false => actions.push(Action::Start(index)),
            }
            if candidate.up && state.misfortunes > 0 {
                actions.extend([Action::Die(index), Action::GiveBack(index)]);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.follow(last, action).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_TWO, |_, state: &State| {
                state.candidates.iter().filter(|one| one.up && one.leads).count() <= 1
            }),
            Property::always(LEFT, |_, state: &State| {
                let holds = |index| state.lease.as_ref().is_some_and(|lease| holds(&lease.spec, index));
                !state.candidates.iter().enumerate().any(|(index, one)| one.left && holds(index))
            }),
            Property::always(SOMEBODY, |model: &Self, state: &State| model.calms_down(state)),
            Property::sometimes("somebody else takes over", |_, state: &State| taken_over(state)),
        ]
    }
}

/// The elector's proportions: 15, 10, 2, 5 and 10 seconds, in units of 2.5, and clocks that run apart.
const TIMES: Times = Times { duration: 6, renew_deadline: 3, retry: 1, call: 2, release: 4, apart: 1 };

fn election(candidates: usize, times: Times) -> Election {
    let (start, calm) = (Instant::now(), Mutex::default());
    let release = Release::Settled;
    Election { candidates, times, guarded: true, release, misfortunes: 1, start, calm }
}

/// Says it where a passing test's words aren't kept back.
fn say(line: &str) {
    // a test doesn't fail because nobody listens
    let _ = std::io::stderr().lock().write_all(format!("    {line}\n").as_bytes());
}

fn deep() -> bool {
    std::env::var("KUBEVIRT_MODEL").is_ok_and(|mode| mode == "deep")
}

#[tokio::test]
async fn never_do_two_lead_whatever_the_order_of_events() {
    let cases = [("two candidates", 2, 1), ("three candidates", 3, u8::from(deep()))];
    for (name, candidates, misfortunes) in cases {
        let started = std::time::Instant::now();
        let model = Election { misfortunes, ..election(candidates, TIMES) };
        let checker = model.checker().spawn_bfs().join();
        say(&format!(
            "lease, {name}: {} states, depth {}, {:.1} s",
            checker.unique_state_count(),
            checker.max_depth(),
            started.elapsed().as_secs_f64()
        ));
        checker.assert_properties();
    }
}

#[tokio::test]
async fn wrong_times_unguarded_writes_and_careless_releases_are_found_out() {
    let times = |times| Election { times, ..election(2, TIMES) };
    let release = |release| Election { release, ..election(2, TIMES) };
    let unguarded = Election { guarded: false, ..election(2, TIMES) };
    let cases = [
        ("a renew deadline longer than the lease", NEVER_TWO, times(Times { renew_deadline: 7, ..TIMES })),
        ("clocks that run apart by more than the times allow", NEVER_TWO, times(Times { apart: 3, ..TIMES })),
        ("writes that name no version", NEVER_TWO, unguarded),
        ("a release that doesn't look again", LEFT, release(Release::Once)),
        ("a release that forgets what is on its way", LEFT, release(Release::Forgetful)),
    ];
    for (name, property, model) in cases {
        let found = stateright::HasDiscoveries::AnyOf([property].into());
        let checker = model.checker().finish_when(found).spawn_bfs().join();
        let path = checker.assert_any_discovery(property);
        let states = checker.unique_state_count();
        let events = path.into_actions().len();
        say(&format!("lease, {name}: not \"{property}\" after {events} events ({states} states)"));
    }
}
