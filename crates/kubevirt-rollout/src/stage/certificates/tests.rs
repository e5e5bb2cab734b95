//! A new CA is everywhere before the first leaf of it, counted from when it is in the bundle.

use jiff::SignedDuration;
use serde_json::json;

use super::world::{World, bundle_key};
use crate::observed::{PUBLISHED, Published};
use crate::waiting::WaitingOn;

const CREATE: &str = "create ConfigMap kubevirt/kubevirt-ca";
const APPLY: &str = "apply ConfigMap kubevirt/kubevirt-ca";

/// Certificates that have been there for an hour.
fn settled() -> World {
    let mut world = World::new(json!({}));
    world.settle();
    world.pass(3600);
    assert!(world.steps().is_empty());
    world
}

/// The same, with a new CA in the Secret and nowhere else.
fn renewed() -> World {
    let mut world = settled();
    world.ask(json!({"ca": {"duration": "150h0m0s"}}));
    assert_eq!(world.round(), Ok(1));
    assert_eq!(world.steps(), [APPLY]);
    world
}

/// What is waited for; then the leaves come.
fn assert_spreads_until(mut world: World, seconds: i64) {
    let until = world.now + SignedDuration::from_secs(seconds);
    let outcome = world.keep();
    assert_eq!((outcome.steps.len(), outcome.waiting_on), (0, vec![WaitingOn::CaNotSpread { until }]));
    world.pass(seconds - 1);
    assert!(world.steps().is_empty());
    world.pass(1);
    assert_eq!(world.steps().len(), 5);
    world.round().unwrap();
    assert_eq!(world.signers(), vec![world.ca(); 5]);
    assert!(world.steps().is_empty());
}

#[test]
fn the_first_leaves_wait_for_nobody() {
    let mut world = World::new(json!({}));
    assert_eq!(world.steps(), ["issue the CA in Secret kubevirt/kubevirt-ca"]);
    world.round().unwrap();
    assert_eq!(world.steps(), [CREATE]);
    world.round().unwrap();
    assert_eq!(world.steps().len(), 5);
    world.round().unwrap();
    assert!(world.steps().is_empty());
}

#[test]
fn a_ca_spreads_from_its_publication_on_however_late_that_is() {
    for delay in [0, 1, 149, 150, 151, 3600] {
        let mut world = renewed();
        // the leader dies between the two writes, or the second is refused round after round
        for _ in 0..5 {
            world.pass(delay / 5);
            assert_eq!(world.steps(), [APPLY], "{delay}");
        }
        world.round().unwrap();
        assert_spreads_until(world, 150);
    }
}

#[test]
fn another_leader_goes_on_where_the_first_was() {
    let mut world = renewed();
    world.round().unwrap();
    world.pass(100);
    // nothing is remembered but what is stored
    assert!(world.steps().is_empty());
    assert_spreads_until(world, 50);
}

#[test]
fn a_fraction_of_a_second_is_not_written() {
    let mut world = renewed();
    world.now += SignedDuration::from_millis(1);
    world.round().unwrap();
    let published = world.observed.certificates.published.clone().unwrap();
    assert_eq!(published.at, world.now + SignedDuration::from_millis(999), "never before it is there");
    assert!(world.steps().is_empty(), "and it isn't written again at once");
}

#[test]
fn what_is_written_of_the_publication_is_believed_only_when_it_can_be() {
    let said = |world: &World, fingerprint: &str, seconds: i64| {
        let at = world.now + SignedDuration::from_secs(seconds);
        Some(Published { fingerprint: fingerprint.to_owned(), at }.to_string())
    };
    let mut world = renewed();
    let old = world.signers().remove(0);
    world.round().unwrap();
    world.pass(1000);
    let new = world.ca();
    let both = [new.clone(), old.clone()];
    // who published it, what is written of it, and how long the CA spreads from now on
    let table = [
        ("an operator that doesn't write it down", None, &both[..], Some(150)),
        ("that, and it is nonsense", Some("yesterday".to_owned()), &both[..], Some(150)),
        ("that, and what is left is of another CA", said(&world, &old, -1000), &both[..], Some(150)),
        ("a leader whose clock is ahead", said(&world, &new, 3600), &both[..], Some(150)),
        ("somebody took it out of the bundle again", said(&world, &new, -1000), &both[1..], Some(150)),
        ("we did, a moment ago", said(&world, &new, 0), &both[..], Some(150)),
        ("we did", said(&world, &new, -149), &both[..], Some(1)),
        ("we did, and it has spread", said(&world, &new, -150), &both[..], None),
    ];
    for (who, annotation, bundle, spreads) in table {
        let mut world = world.clone();
        world.put_bundle(bundle, 1000, annotation);
        if world.steps() == [APPLY] {
            world.round().unwrap();
        }
        match spreads {
            Some(seconds) => assert_spreads_until(world, seconds),
            None => assert_eq!(world.steps().len(), 5, "{who}"),
        }
    }
}

#[test]
fn what_an_older_operator_left_is_written_down_once_and_holds_nothing_up() {
    let mut world = settled();
    let (ca, bundle) = (world.ca(), world.observed.objects[&bundle_key()].clone());
    world.put_bundle(std::slice::from_ref(&ca), 3600, None);
    assert_eq!(world.steps(), [APPLY]);
    world.round().unwrap();
    let outcome = world.keep();
    assert!(outcome.is_over(), "{outcome:?}");
    assert_eq!(world.observed.objects[&bundle_key()]["data"], bundle["data"]);
    assert!(world.observed.objects[&bundle_key()]["metadata"]["annotations"][PUBLISHED].is_string());
}

#[test]
fn a_leaf_that_is_of_no_use_waits_for_nothing() {
    let mut world = renewed();
    world.round().unwrap();
    world.put_leaf(1, None, 0, "24h");
    assert_eq!(world.steps(), ["issue the certificate in Secret kubevirt/kubevirt-virt-api-certs"]);
    assert!(!world.keep().waiting_on.is_empty(), "the others do");
}

#[test]
fn a_ca_of_which_leaves_are_in_use_stays_in_the_bundle_however_many_there_are() {
    let mut world = settled();
    let first = world.ca();
    for n in 0..120 {
        world.ask(json!({"ca": {"duration": format!("{}h", 100 + n)}}));
        world.pass(1);
        assert_eq!(world.round(), Ok(1));
        assert_eq!(world.round(), Ok(1));
    }
    assert!(world.in_bundle.contains_key(&first));
    assert_eq!(world.in_bundle.len(), 50);
    assert_spreads_until(world, 150);
}

#[test]
fn a_ca_that_is_renewed_as_often_as_may_be_signs_all_the_same() {
    let mut world = World::new(json!({"ca": {"duration": "168h", "renewBefore": "167h55m"}}));
    world.settle();
    for _ in 0..200 {
        world.now = world.next().unwrap();
        world.settle();
        let signer = world.signers().remove(0);
        assert!(world.in_bundle.contains_key(&signer));
        let behind =
            world.in_bundle.keys().filter(|ca| ca.parse::<u64>().unwrap() > signer.parse().unwrap()).count();
        assert!(behind <= 1, "a leaf is of the newest CA, or of the one before");
    }
    assert!(world.in_bundle.len() <= 50);
}
