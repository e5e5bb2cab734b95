//! Sweeps: at every boundary between two writes of a change, something else happens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_sim::Cluster;
use kubevirt_types::Release;
use support::{assert_at, installed_on, settle};

/// What happens at a boundary.
type Event = fn(&mut Cluster);

/// Every so many boundaries are tried, so that a run takes seconds; `KUBEVIRT_SWEEP=all` tries all of them.
const STRIDE: usize = 7;

/// Carries out a change one write at a time; after each, a copy of the world goes another way to its end. Returns how
/// many boundaries there were.
fn sweep(from: Release, change: Event, event: Event, end: &Release) -> usize {
    let stride = if std::env::var("KUBEVIRT_SWEEP").is_ok_and(|all| all == "all") { 1 } else { STRIDE };
    let (mut operator, mut cluster) = installed_on(2, from, 7);
    change(&mut cluster);
    let mut boundaries = 0;
    loop {
        let (mut other_operator, mut other) = (operator.clone(), cluster.clone());
        event(&mut other);
        if boundaries % stride == 0 {
            settle(&mut other_operator, &mut other);
            assert_at(&other, end);
        }
        boundaries += 1;
        match operator.run_writes(&mut cluster, 1, 400) {
            Ok(true) => {}
            Ok(false) => return boundaries,
            Err(broken) => panic!("after {boundaries} writes: {broken}"),
        }
    }
}

fn to_new(cluster: &mut Cluster) {
    cluster.set_image_tag(Some("v0.18.0"));
}

fn to_old(cluster: &mut Cluster) {
    cluster.set_image_tag(Some("v0.17.0"));
}

fn to_patch_release(cluster: &mut Cluster) {
    cluster.publish_images("v0.17.5".parse().unwrap());
    cluster.set_image_tag(Some("v0.17.5"));
}

fn report(what: &str, boundaries: usize) {
    println!("{what}: {boundaries} boundaries");
    assert!(boundaries > 20, "the change has steps");
}

#[test]
fn a_patch_back_at_every_boundary_of_an_update() {
    report("patch back", sweep(Release::V0_17_0, to_new, to_old, &Release::V0_17_0));
}

#[test]
fn an_update_again_at_every_boundary_of_a_rollback() {
    report("update again", sweep(Release::V0_18_0, to_old, to_new, &Release::V0_18_0));
}

#[test]
fn another_target_at_every_boundary_of_an_update() {
    let end = "v0.17.5".parse().unwrap();
    report("retarget", sweep(Release::V0_17_0, to_new, to_patch_release, &end));
}

#[test]
fn a_crash_after_every_single_write_comes_to_the_same_end() {
    let straight = {
        let (mut operator, mut cluster) = installed_on(2, Release::V0_17_0, 7);
        to_new(&mut cluster);
        settle(&mut operator, &mut cluster);
        cluster.contents()
    };
    let (mut operator, mut cluster) = installed_on(2, Release::V0_17_0, 7);
    to_new(&mut cluster);
    let mut crashes = 0;
    while operator.run_writes(&mut cluster, 1, 400).unwrap() {
        operator = operator.restarted();
        crashes += 1;
    }
    println!("crashes: {crashes}");
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert!(cluster.contents() == straight, "the same end");
}

#[test]
fn other_seeds_and_sizes_come_to_the_same_end() {
    for seed in 0..3 {
        let nodes = [1, 2, 5][usize::try_from(seed % 3).unwrap()];
        let (mut operator, mut cluster) = installed_on(nodes, Release::V0_17_0, seed);
        to_new(&mut cluster);
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &Release::V0_18_0);
    }
}
