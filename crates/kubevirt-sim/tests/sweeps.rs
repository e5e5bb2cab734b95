//! Sweeps: at every boundary between two writes of a change, the operator dies or something else happens, and the world
//! goes on to the same end.
//!
//! A world that comes to a moment that another one has been at has the same future, so it is followed no further.
//! Some changes are tried at a part of their boundaries only. `KUBEVIRT_SWEEP=all` tries every boundary of every change
//! and follows every world to its end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use kubevirt_sim::{Cluster, Fault, Operator, say};
use kubevirt_types::Release;
use support::{BOUND, assert_at, installed_on, settle, tail};

/// What happens at a boundary.
type Event = fn(&mut Cluster);
/// What must be so at the end.
type End = fn(&Cluster);

/// Worlds that were followed, and what is known of them.
struct Sweep {
    end: End,
    known: BTreeSet<u64>,
    all: bool,
    boundaries: usize,
    merged: usize,
}

impl Sweep {
    fn new(end: End) -> Self {
        let all = std::env::var("KUBEVIRT_SWEEP").is_ok_and(|all| all == "all");
        Self { end, known: BTreeSet::new(), all, boundaries: 0, merged: 0 }
    }

    /// Follows one world to its end.
    fn follow(&mut self, operator: &mut Operator, cluster: &mut Cluster) {
        let mut path = Vec::new();
        let settled = operator.settle_unless(cluster, BOUND, |operator, cluster| {
            let moment = operator.moment(cluster);
            path.push(moment);
            !self.all && self.known.contains(&moment)
        });
        match settled {
            Ok(Some(_)) => (self.end)(cluster),
            Ok(None) => self.merged += 1,
            Err(broken) => panic!("boundary {}: {broken}\nlast writes:\n{}", self.boundaries, tail(cluster)),
        }
        self.known.extend(path);
        self.boundaries += 1;
    }
}

/// Carries out a change one write at a time. After each, or each of so many, a copy of the world, with an operator that
/// knows nothing, goes another way to its end.
fn sweep(
    name: &str,
    stride: usize,
    (mut operator, mut cluster): (Operator, Cluster),
    event: Event,
    end: End,
) {
    let mut sweep = Sweep::new(end);
    let mut writes = 0;
    loop {
        if sweep.all || writes % stride == 0 {
            let (mut other_operator, mut other) = (operator.restarted(), cluster.clone());
            event(&mut other);
            sweep.follow(&mut other_operator, &mut other);
        }
        writes += 1;
        match operator.run_writes(&mut cluster, 1, 700) {
            Ok(true) => {}
            Ok(false) => break,
            Err(broken) => panic!("after {writes} writes: {broken}"),
        }
    }
    let Sweep { boundaries, merged, .. } = sweep;
    say(&format!(
        "sweep, {name}: {boundaries} points, {merged} of them come to a moment that was seen before"
    ));
    assert!(writes > 20, "the change has steps");
}

fn to_new(cluster: &mut Cluster) {
    cluster.set_image_tag(Some("v0.18.0"));
}

fn to_old(cluster: &mut Cluster) {
    cluster.set_image_tag(Some("v0.17.0"));
}

fn nothing(_: &mut Cluster) {}

fn at_new(cluster: &Cluster) {
    assert_at(cluster, &Release::V0_18_0);
}

fn at_old(cluster: &Cluster) {
    assert_at(cluster, &Release::V0_17_0);
}

/// An installation of a release, and a change of it that begins.
fn begun(nodes: usize, from: Release, change: Event) -> (Operator, Cluster) {
    let (operator, mut cluster) = installed_on(nodes, from, 7);
    change(&mut cluster);
    (operator, cluster)
}

#[test]
fn a_crash_after_every_write_of_an_installation() {
    sweep(
        "crash in an installation",
        3,
        (Operator::default(), Cluster::new(2, Release::V0_17_0, 7)),
        nothing,
        at_old,
    );
}

#[test]
fn a_crash_after_every_write_of_an_update() {
    sweep("crash in an update", 1, begun(2, Release::V0_17_0, to_new), nothing, at_new);
}

#[test]
fn a_crash_after_every_write_of_a_rollback() {
    sweep("crash in a rollback", 3, begun(2, Release::V0_18_0, to_old), nothing, at_old);
}

#[test]
fn a_crash_after_every_write_of_an_update_that_fails_and_returns() {
    let (operator, mut cluster) = begun(3, Release::V0_17_0, to_new);
    cluster.inject("virt-handler", Release::V0_18_0, Fault::Crashes);
    sweep("crash in an update whose virt-handler fails", 1, (operator, cluster), nothing, at_old);
}

#[test]
fn a_crash_after_every_write_of_an_update_whose_controllers_fail() {
    let (operator, mut cluster) = begun(2, Release::V0_17_0, to_new);
    cluster.inject("virt-controller", Release::V0_18_0, Fault::ImageMissing);
    sweep("crash in an update whose virt-controller fails", 5, (operator, cluster), nothing, at_old);
}

#[test]
fn a_crash_after_every_write_of_an_update_with_a_lost_node() {
    let (operator, mut cluster) = begun(3, Release::V0_17_0, to_new);
    cluster.lose_node("node-2");
    sweep("crash in an update with a lost node", 5, (operator, cluster), nothing, |cluster| {
        let status = cluster.kubevirt().unwrap().status.clone().unwrap();
        assert_eq!(status.observed_kube_virt_version.as_deref(), Some("v0.18.0"));
    });
}

#[test]
fn a_patch_back_after_every_write_of_an_update() {
    sweep("patch back in an update", 11, begun(2, Release::V0_17_0, to_new), to_old, at_old);
}

#[test]
fn an_update_again_after_every_write_of_a_rollback() {
    sweep("update again in a rollback", 11, begun(2, Release::V0_18_0, to_old), to_new, at_new);
}

#[test]
fn another_target_after_every_write_of_an_update() {
    let to_patch_release: Event = |cluster| {
        cluster.publish_images("v0.17.5".parse().unwrap());
        cluster.set_image_tag(Some("v0.17.5"));
    };
    let at_patch_release: End = |cluster| assert_at(cluster, &"v0.17.5".parse().unwrap());
    sweep(
        "another target in an update",
        13,
        begun(2, Release::V0_17_0, to_new),
        to_patch_release,
        at_patch_release,
    );
}

#[test]
fn a_cosmetic_change_after_every_write_of_an_update() {
    sweep(
        "cosmetic change in an update",
        9,
        begun(2, Release::V0_17_0, to_new),
        Cluster::set_log_verbosity,
        at_new,
    );
}

#[test]
fn an_operator_that_dies_after_every_single_write_comes_to_the_same_end() {
    let (mut operator, mut cluster) = begun(2, Release::V0_17_0, to_new);
    let (mut straight_operator, mut straight) = (operator.clone(), cluster.clone());
    settle(&mut straight_operator, &mut straight);
    let mut crashes = 0;
    while operator.run_writes(&mut cluster, 1, 700).unwrap() {
        operator = operator.restarted();
        crashes += 1;
    }
    settle(&mut operator, &mut cluster);
    say(&format!("an operator that dies after every write of an update: {crashes} crashes"));
    at_new(&cluster);
    assert!(cluster.contents() == straight.contents(), "the same end");
}

#[test]
fn other_seeds_and_sizes_come_to_the_same_end() {
    for (seed, nodes) in [(0, 1), (1, 2), (2, 5), (3, 11)] {
        let (mut operator, mut cluster) = installed_on(nodes, Release::V0_17_0, seed);
        to_new(&mut cluster);
        settle(&mut operator, &mut cluster);
        at_new(&cluster);
    }
}
