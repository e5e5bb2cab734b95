//! A leader that has lost the lease and doesn't know it: it wakes up and goes on with what it planned from an old view,
//! after its successor has begun with something else (I12).
//!
//! A step fails when its own object has changed since. No API server can make it fail because another one has, so a
//! write that was on its way may be taken too late: a virt-api of the target that was given up, a kind whose guard is
//! gone again. Then nothing that serves stops (I4), no VM is touched (I5), handlers go one by one (I6), and the
//! successor puts it right at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_rollout::{Observed, Stage};
use kubevirt_sim::{Cluster, Operator, Part, delayed, say};
use kubevirt_types::Release;
use support::{assert_at, installed, settle, tail};

const NEW: Release = Release::V0_18_0;
const OLD: Release = Release::V0_17_0;

/// How long the successor has worked when the old leader wakes up, in seconds.
const ASLEEP: [usize; 1] = [8];

/// How far a part of a view lags behind the others, in seconds.
const LAG: usize = 15;

/// The worlds in which a change has just come to another stage, with what its operator sees.
fn stages(from: &Release, to: &Release) -> Vec<(Stage, Operator, Cluster, Observed)> {
    let (mut operator, mut cluster) = installed(from.clone());
    cluster.set_image_tag(Some(&to.to_string()));
    let mut stages: Vec<(Stage, Operator, Cluster, Observed)> = vec![];
    for _ in 0..600 {
        let (before, view) = ((operator.clone(), cluster.clone()), cluster.observe());
        let plan = operator.reconcile(&mut cluster, usize::MAX).unwrap().plan;
        // the plan that writes is the one to sleep on
        if !plan.steps.is_empty() && stages.last().is_none_or(|(stage, ..)| *stage != plan.stage) {
            stages.push((plan.stage, before.0, before.1, view));
        }
        if plan.stage == Stage::Settled {
            return stages;
        }
        cluster.tick();
    }
    panic!("{to} is never reached: {}", tail(&cluster));
}

/// Writes that an old leader still makes: one is on its way, and a clock may be slow.
const WRITES: usize = 3;
/// In so many seconds all is right again.
const REPAIR: usize = 60;

/// The old leader sleeps on every plan of a change; meanwhile a user turns back.
fn wakes_up(from: Release, to: Release) {
    let all = stages(&from, &to);
    let (mut woken, mut writes, mut harmed) = (0, 0, 0);
    for asleep in ASLEEP {
        for (stage, old, world, view) in &all {
            let (mut old, mut cluster) = (old.clone(), world.clone());
            let mut successor = old.restarted();
            let place = format!("{stage}, {asleep} s asleep");
            cluster.set_image_tag(Some(&from.to_string()));
            successor.run(&mut cluster, asleep).unwrap_or_else(|broken| panic!("{place}: {broken}"));
            successor.tolerates = vec!["I3", "I7", "I8", "CRDs"];
            old.watch_like(&successor);
            let outcome = old.reconcile_from(&mut cluster, view, WRITES);
            let taken =
                outcome.unwrap_or_else(|broken| panic!("{place}: {broken}\n{}", tail(&cluster))).written;
            cluster.meddled_by_another();
            woken += 1;
            writes += taken;
            if taken == 0 {
                continue;
            }
            let done = successor.run(&mut cluster, REPAIR);
            done.unwrap_or_else(|broken| panic!("{place}, later: {broken}\n{}", tail(&cluster)));
            harmed += 1;
            let mut strict = successor.clone();
            strict.tolerates.clear();
            cluster.meddled_by_another();
            strict
                .watch(&cluster)
                .unwrap_or_else(|broken| panic!("{place}, repaired: {broken}\n{}", tail(&cluster)));
            if *stage == Stage::Api || *stage == Stage::Handlers {
                settle(&mut strict, &mut cluster);
                assert_at(&cluster, &from);
            }
        }
    }
    say(&format!(
        "lost leases: an old leader woke up {woken} times on the way from {from} to {to}; {writes} of its writes were \
         taken in {harmed} worlds, and all were put right"
    ));
}

#[test]
fn an_old_leader_that_wakes_up_in_an_update_stops_nothing() {
    wakes_up(OLD, NEW);
}

#[test]
fn an_old_leader_that_wakes_up_in_a_rollback_stops_nothing() {
    wakes_up(NEW, OLD);
}

#[test]
fn two_leaders_at_once_come_to_the_same_end() {
    let (mut one, mut cluster) = installed(OLD);
    let mut other = one.restarted();
    cluster.set_image_tag(Some("v0.18.0"));
    let mut views = vec![];
    for second in 0..400_usize {
        views.push(cluster.observe());
        one.reconcile(&mut cluster, 2).unwrap();
        cluster.meddled_by_another();
        // one write behind, and never quite up to date
        let stale = &views[second.saturating_sub(second % 3)];
        other.watch_like(&one);
        other.reconcile_from(&mut cluster, stale, 2).unwrap();
        cluster.meddled_by_another();
        cluster.tick();
        one.watch(&cluster).unwrap();
    }
    settle(&mut one, &mut cluster);
    assert_at(&cluster, &NEW);
}

#[test]
fn a_part_of_the_view_that_lags_behind_does_no_harm() {
    for part in Part::ALL {
        let (mut operator, mut cluster) = installed(OLD);
        cluster.set_image_tag(Some("v0.18.0"));
        let mut views = vec![];
        for second in 0..200_usize {
            views.push(cluster.observe());
            let view = delayed(&views[second], &views[second.saturating_sub(LAG)], &[part]);
            let done = operator.reconcile_from(&mut cluster, &view, usize::MAX);
            let done = done.map(|_| cluster.tick()).and_then(|()| operator.watch(&cluster));
            done.unwrap_or_else(|broken| panic!("{part:?} {LAG} s behind: {broken}\n{}", tail(&cluster)));
        }
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &NEW);
    }
}
