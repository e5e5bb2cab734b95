//! A new version that fails, in every way: at most one node suffers, it is found within a deadline and named, and then
//! comes what the spec asks for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_rollout::Policy;
use kubevirt_sim::{Cluster, Fault, Operator, say};
use kubevirt_types::Release;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure};
use support::{assert_at, but_notes, condition, installed_on, settle};

const NEW: Release = Release::V0_18_0;
const OLD: Release = Release::V0_17_0;

fn failed(cluster: &Cluster) -> Option<FailedUpdate> {
    cluster.kubevirt().unwrap().status.clone().unwrap().failed_update
}

/// What came of a failing update.
struct Story {
    /// The most nodes that suffered at one moment.
    affected: usize,
    /// Seconds from the user's patch until the failure was named.
    named: i64,
    failure: FailedUpdate,
}

/// Patches the tag and works until the failure is named; looks at every second.
fn until_named(operator: &mut Operator, cluster: &mut Cluster, limit: i64) -> Story {
    cluster.set_image_tag(Some(&NEW.to_string()));
    let start = cluster.now();
    let mut affected = 0;
    loop {
        operator.run(cluster, 1).unwrap_or_else(|broken| panic!("{broken}\n{}", support::tail(cluster)));
        affected = affected.max(cluster.affected_nodes().len());
        let named = cluster.now().duration_since(start).as_secs();
        if let Some(failure) = failed(cluster) {
            return Story { affected, named, failure };
        }
        assert!(named < limit, "not named after {named} s: {}", condition(cluster, "Degraded").1);
    }
}

/// By when a fault is named: the stages before take seconds, then comes what the policy says.
fn limit(fault: Fault) -> i64 {
    let policy = Policy::default();
    let seconds = match fault {
        Fault::ImageMissing => policy.image_deadline.as_secs(),
        Fault::Crashes | Fault::InitCrashes => 20,
        Fault::Unschedulable | Fault::NeverReady => policy.pod_deadline.as_secs(),
        Fault::NodeUnable => policy.soak.as_secs() + policy.schedulable_deadline.as_secs(),
        Fault::Silent => policy.soak.as_secs() + policy.pod_deadline.as_secs(),
        Fault::CrashesAfter(after) => i64::from(after),
    };
    seconds + 40
}

const ALL: [Fault; 9] = [
    Fault::ImageMissing,
    Fault::Crashes,
    Fault::InitCrashes,
    Fault::Unschedulable,
    Fault::NeverReady,
    Fault::NodeUnable,
    Fault::Silent,
    Fault::CrashesAfter(30),
    Fault::CrashesAfter(60),
];

/// Which words of the cause name the fault.
fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::ImageMissing => "can't be pulled",
        Fault::Crashes | Fault::InitCrashes | Fault::CrashesAfter(_) => "exit code 1",
        Fault::Unschedulable => "Unschedulable",
        Fault::NeverReady => "not Ready for more than 180 s",
        Fault::NodeUnable => "node isn't schedulable",
        Fault::Silent => "",
    }
}

/// A failing handler harms one node at most, is named, and goes by itself.
fn handler_fails(nodes: usize, fault: Fault) {
    let (mut operator, mut cluster) = installed_on(nodes, OLD, 1);
    let before = but_notes(&cluster);
    cluster.inject("virt-handler", NEW, fault);
    let start = cluster.now();
    let story = until_named(&mut operator, &mut cluster, limit(fault));
    assert!(story.affected <= 1, "{fault:?}: {} of {nodes} nodes", story.affected);
    let failure = &story.failure;
    assert_eq!((failure.component.as_str(), failure.action), ("virt-handler", OnFailure::Rollback));
    assert!(failure.cause.contains(words(fault)), "{fault:?}: {}", failure.cause);
    let (status, message) = condition(&cluster, "Degraded");
    assert!(status == "True" && message.contains(&failure.cause), "{message}");
    assert_eq!(cluster.serving("virt-controller", &NEW) + cluster.serving("virt-api", &NEW), 0);

    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &OLD);
    assert!(but_notes(&cluster) == before, "{fault:?}");
    assert!(cluster.affected_nodes().is_empty());
    assert_eq!(condition(&cluster, "Degraded").0, "True", "it is still said");
    let back = cluster.now().duration_since(start).as_secs();
    say(&format!(
        "{nodes} nodes, virt-handler {fault:?}: {} affected, named after {} s, all quiet after {back} s",
        story.affected, story.named
    ));
}

#[test]
fn a_handler_whose_image_is_missing() {
    handler_fails(3, Fault::ImageMissing);
}

#[test]
fn a_handler_that_crashes() {
    handler_fails(3, Fault::Crashes);
    handler_fails(1, Fault::Crashes);
}

#[test]
fn a_handler_whose_init_container_crashes() {
    handler_fails(3, Fault::InitCrashes);
}

#[test]
fn a_handler_that_finds_no_room() {
    handler_fails(3, Fault::Unschedulable);
}

#[test]
fn a_handler_that_is_never_ready() {
    handler_fails(3, Fault::NeverReady);
}

#[test]
fn a_handler_that_makes_its_node_unable() {
    handler_fails(3, Fault::NodeUnable);
    handler_fails(1, Fault::NodeUnable);
}

#[test]
fn what_shows_only_in_charge_reaches_no_second_node_however_short_the_soak_is() {
    for soak in [5, 10, 20, 39] {
        for fault in [Fault::NodeUnable, Fault::Silent] {
            let (mut operator, mut cluster) = installed_on(4, OLD, 1);
            cluster.set_soak(soak);
            cluster.inject("virt-handler", NEW, fault);
            let story = until_named(&mut operator, &mut cluster, limit(fault));
            assert_eq!(story.affected, 1, "{fault:?}, soak {soak} s");
            settle(&mut operator, &mut cluster);
            assert_at(&cluster, &OLD);
        }
    }
}

#[test]
fn a_handler_that_takes_charge_and_says_nothing() {
    handler_fails(3, Fault::Silent);
}

#[test]
fn a_handler_that_crashes_soon_after_it_was_ready() {
    handler_fails(3, Fault::CrashesAfter(30));
}

#[test]
fn a_handler_that_crashes_a_minute_after_it_was_ready() {
    handler_fails(3, Fault::CrashesAfter(60));
}

#[test]
fn a_failing_controller_or_api_takes_nothing_away_and_goes_by_itself() {
    for component in ["virt-controller", "virt-api"] {
        for fault in ALL.into_iter().filter(|fault| !fault.is_handlers()) {
            let (mut operator, mut cluster) = installed_on(2, OLD, 1);
            let before = but_notes(&cluster);
            cluster.inject(component, NEW, fault);
            // the handlers and the other component are rolled before
            let story = until_named(&mut operator, &mut cluster, limit(fault) + 400);
            let failure = &story.failure;
            assert_eq!(failure.component, component);
            assert!(failure.cause.contains(words(fault)), "{fault:?}: {}", failure.cause);
            settle(&mut operator, &mut cluster);
            assert_at(&cluster, &OLD);
            assert!(but_notes(&cluster) == before, "{fault:?}");
            say(&format!("{component} {fault:?}: named after {} s", story.named));
        }
    }
}

#[test]
fn a_pause_stays_where_it_is_until_the_spec_changes() {
    let faults = [
        Fault::ImageMissing,
        Fault::Crashes,
        Fault::NodeUnable,
        Fault::CrashesAfter(30),
        Fault::CrashesAfter(60),
    ];
    for fault in faults {
        let (mut operator, mut cluster) = installed_on(3, OLD, 1);
        let before = but_notes(&cluster);
        cluster.set_on_failure(OnFailure::Pause);
        cluster.inject("virt-handler", NEW, fault);
        let story = until_named(&mut operator, &mut cluster, limit(fault));
        assert_eq!(story.failure.action, OnFailure::Pause);
        for _ in 0..120 {
            operator.run(&mut cluster, 5).unwrap();
            let affected = cluster.affected_nodes();
            assert!(affected.len() <= 1, "{fault:?}, paused: {affected:?}");
        }
        let new = cluster.observe().pods.iter().filter(|pod| pod.release == Some(NEW)).count();
        assert!(new <= 2, "the canary, and what stood by when it failed: {new}");
        assert_eq!(condition(&cluster, "Available").0, "True");
        cluster.set_image_tag(Some(&OLD.to_string()));
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &OLD);
        assert_eq!(failed(&cluster), None, "another target is another story");
        assert!(but_notes(&cluster) == before);
    }
}

#[test]
fn another_try_succeeds_when_the_fault_is_gone_and_fails_again_when_not() {
    for action in [OnFailure::Rollback, OnFailure::Pause] {
        let (mut operator, mut cluster) = installed_on(3, OLD, 1);
        cluster.set_on_failure(action);
        cluster.inject("virt-handler", NEW, Fault::Crashes);
        let first = until_named(&mut operator, &mut cluster, limit(Fault::Crashes)).failure;
        settle(&mut operator, &mut cluster);
        cluster.retry_update();
        operator.run(&mut cluster, 3).unwrap();
        assert_eq!(failed(&cluster), None, "{action:?}: tried again");
        settle(&mut operator, &mut cluster);
        let second = failed(&cluster).unwrap();
        assert!(second.at > first.at && second.retry.is_some(), "{action:?}: {second:?}");

        cluster.heal();
        cluster.retry_update();
        settle(&mut operator, &mut cluster);
        assert_at(&cluster, &NEW);
        assert_eq!(failed(&cluster), None);
        assert_eq!(condition(&cluster, "Degraded").0, "False");
    }
}

#[test]
fn a_failing_release_fixed_by_another_one_goes_forward() {
    let (mut operator, mut cluster) = installed_on(3, OLD, 1);
    cluster.publish_images("v0.18.1".parse().unwrap());
    cluster.inject("virt-handler", NEW, Fault::NodeUnable);
    until_named(&mut operator, &mut cluster, limit(Fault::NodeUnable));
    cluster.set_image_tag(Some("v0.18.1"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &"v0.18.1".parse().unwrap());
}

#[test]
fn a_change_of_the_same_release_that_fails_goes_back_too() {
    let (mut operator, mut cluster) = installed_on(3, NEW, 1);
    let before = but_notes(&cluster);
    cluster.inject_image("elsewhere/virt-handler:v0.18.0", None, Fault::ImageMissing);
    cluster.set_registry("elsewhere");
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &NEW);
    assert!(failed(&cluster).unwrap().cause.contains("can't be pulled"));
    assert!(but_notes(&cluster) == before, "what runs is what ran");
}

#[test]
fn a_crash_at_the_start_that_passes_is_forgiven() {
    let (mut operator, mut cluster) = installed_on(3, OLD, 1);
    cluster.inject("virt-handler", NEW, Fault::Crashes);
    cluster.set_image_tag(Some(&NEW.to_string()));
    while !cluster.observe().pods.iter().any(|pod| pod.crash.is_some()) {
        operator.run(&mut cluster, 1).unwrap();
    }
    cluster.heal();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &NEW);
    assert_eq!(failed(&cluster), None);
}

#[test]
fn one_bad_node_of_many_is_tolerated_after_the_canary_and_of_few_it_is_not() {
    for (nodes, goes_on) in [(3, false), (24, true)] {
        let (mut operator, mut cluster) = installed_on(nodes, OLD, 1);
        cluster.set_image_tag(Some(&NEW.to_string()));
        while !cluster.nodes().iter().any(|node| support::has_only(&cluster, node, &NEW)) {
            operator.run(&mut cluster, 1).unwrap();
        }
        let bad = cluster.nodes().into_iter().rfind(|node| support::has_only(&cluster, node, &OLD)).unwrap();
        cluster.inject_image("kubevirt/virt-handler:v0.18.0", Some(&bad), Fault::ImageMissing);
        settle(&mut operator, &mut cluster);
        let moved = cluster.nodes().iter().filter(|node| support::has_only(&cluster, node, &NEW)).count();
        assert_eq!(failed(&cluster).is_none(), goes_on, "{nodes} nodes: {:?}", failed(&cluster));
        assert_eq!(moved, if goes_on { nodes - 1 } else { 0 }, "{nodes} nodes");
    }
}
