//! The model check: every order of the events of a small world. Two nodes, two releases, two operators that plan from what
//! they saw and write step by step, die after any write and start again, a user who changes the target, a release that
//! turns out to be bad. The planner and the simulator are the real ones.
//!
//! Each run prints how many states there were. It is complete: it ends when nothing new can happen any more. Without a lease
//! both operators act at once, which is worse than it can be; with it, as many changes of the target as there are happen
//! on the way. With `KUBEVIRT_MODEL=deep` more may happen, which takes many minutes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rollout;
mod worlds;
mod wrong;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Instant;

use jiff::SignedDuration;
use kubevirt_rollout::{Policy, plan_with};
use kubevirt_sim::{Planner, say};
use rollout::{ARRIVES, PROMISE, Rollout, Scope};
use stateright::{Checker, HasDiscoveries, Model};
use worlds::{Beginnings, Operators, WorldId, Worlds};

/// Short times, so that few seconds decide.
fn policy() -> Policy {
    Policy {
        soak: SignedDuration::from_secs(1),
        handover: SignedDuration::from_secs(2),
        pod_deadline: SignedDuration::from_secs(3),
        image_deadline: SignedDuration::from_secs(3),
        schedulable_deadline: SignedDuration::from_secs(3),
        ..Policy::default()
    }
}

/// No soak, and the shortest handover: fewer worlds, so that the user may change the target on the way.
fn hasty() -> Policy {
    Policy { soak: SignedDuration::ZERO, handover: SignedDuration::from_secs(1), ..policy() }
}

fn right(policy: &Policy) -> Operators {
    Operators { planner: plan_with, policy: policy.clone(), checked: true, guarded: true }
}

/// Tries everything that may happen.
fn explore(name: &str, policy: &Policy, scope: Scope, from: impl Fn(&Worlds) -> Vec<WorldId>) {
    let started = Instant::now();
    let worlds = Worlds::new(&Beginnings::new(policy), right(policy));
    let from = from(&worlds);
    let checker = Rollout { worlds: Mutex::new(worlds), scope, from }.checker().spawn_bfs().join();
    let worlds = checker.model().with(|worlds| worlds.all.len());
    say(&format!(
        "model, {name}: {} states of {worlds} worlds, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    ));
    for (name, path) in checker.discoveries() {
        let last = path.last_state().world;
        let told = checker.model().with(|worlds| {
            let world = worlds.world(last);
            let wrong: Vec<String> = world.broken.iter().chain(&world.refused).cloned().collect();
            (!wrong.is_empty())
                .then(|| format!("{}\n{}", wrong.join("\n"), rollout::told(worlds, &path.into_vec())))
        });
        assert_eq!(told, None, "{name}");
    }
    checker.assert_properties();
}

fn deep() -> bool {
    std::env::var("KUBEVIRT_MODEL").is_ok_and(|mode| mode == "deep")
}

#[test]
fn whatever_the_order_of_events_an_update_and_a_rollback_keep_the_promise() {
    let scope = Scope { wishes: 1, slow: deep(), patience: 2, ..Scope::default() };
    explore("one change of the target", &policy(), scope, |worlds| worlds.from.clone());
}

#[test]
fn a_release_that_turns_out_to_be_bad_is_taken_back() {
    let scope = match deep() {
        false => Scope { wishes: 1, breaks: true, patience: 1, ..Scope::default() },
        true => Scope { wishes: 2, breaks: true, lease: true, patience: 3, ..Scope::default() },
    };
    explore("a bad release", &hasty(), scope, |worlds| worlds.from.clone());
}

#[test]
fn the_user_may_change_the_target_on_the_way() {
    let scope = Scope { wishes: if deep() { 3 } else { 2 }, lease: true, patience: 3, ..Scope::default() };
    explore("changes of the target on the way", &hasty(), scope, |worlds| worlds.from[..1].to_vec());
}

/// Why there is a lease beside the preconditions: an orphan that nobody has touched, and a kind that has come and gone, look
/// as they did. Where two act at once, and the target changes on the way, one makes the kind that the other has just
/// stopped to guard, or takes the Service that the other's pods are about to need.
#[test]
fn two_operators_at_once_break_what_preconditions_do_not_protect() {
    let started = Instant::now();
    let policy = hasty();
    let worlds = Worlds::new(&Beginnings::new(&policy), right(&policy));
    let events = found_out(worlds, Scope { wishes: 2, ..Scope::default() }, PROMISE, "");
    let seconds = started.elapsed().as_secs_f64();
    say(&format!("model, two operators at once and no lease: found out ({events} events), {seconds:.1} s"));
}

/// How many events it takes until a property is broken, in these words.
fn found_out(worlds: Worlds, scope: Scope, property: &'static str, expected: &str) -> usize {
    let from = worlds.from[..1].to_vec();
    let checker = Rollout { worlds: Mutex::new(worlds), scope, from }
        .checker()
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let path = checker.assert_any_discovery(property);
    let last = path.last_state().world;
    let broken = checker.model().with(|worlds| worlds.world(last).broken.join("\n"));
    assert!(broken.contains(expected), "{expected} is expected: {broken}");
    path.into_actions().len()
}

#[test]
fn every_wrong_planner_is_found_out() {
    let started = Instant::now();
    let policy = policy();
    let beginnings = Beginnings::new(&policy);
    let wrong = |planner: Planner| Operators { planner, checked: false, ..right(&policy) };
    let hurried = Policy { handover: SignedDuration::ZERO, ..policy.clone() };
    let early = Operators { policy: hurried, checked: false, ..right(&policy) };
    let careless = Operators { guarded: false, ..right(&policy) };
    type Case<'a> = (&'a str, Operators, u8, &'static str, &'a str);
    let cases: [Case<'_>; 8] = [
        ("virt-api first", wrong(wrong::api_first), 1, PROMISE, "I3"),
        ("virt-api with a gap", wrong(wrong::api_with_a_gap), 1, PROMISE, "I4"),
        ("no canary", wrong(wrong::no_canary), 1, PROMISE, "I6"),
        ("rules taken before the handover", early, 1, PROMISE, "I7"),
        ("orphans early", wrong(wrong::orphans_early), 1, PROMISE, "I8"),
        ("no guard", wrong(wrong::no_guard), 1, PROMISE, "may be used"),
        ("never done", wrong(wrong::never_done), 1, ARRIVES, ""),
        ("writes that name nothing", careless, 3, PROMISE, ""),
    ];
    let mut told = vec![];
    for (name, operators, wishes, property, expected) in cases {
        let scope = Scope { wishes, patience: 2, ..Scope::default() };
        let events = found_out(Worlds::new(&beginnings, operators), scope, property, expected);
        told.push(format!("{name} ({events} events)"));
    }
    say(&format!(
        "model, {} wrong planners found out: {}, {:.1} s",
        told.len(),
        told.join(", "),
        started.elapsed().as_secs_f64()
    ));
}
