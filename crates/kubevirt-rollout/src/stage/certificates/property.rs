//! Whatever durations are asked for and whatever is stored: certificates come to rest, and what is in use stays of use.

use jiff::SignedDuration;
use kubevirt_types::{KubeVirt, Release};
use proptest::prelude::{Just, Strategy, any, prop};
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use proptest::{prop_assert_eq, prop_oneof};
use serde_json::{Value, json};

use super::LEAVES;
use super::validity::MIN_MARGIN;
use super::world::World;
use crate::admission::validate_create;
use crate::observed::{Operator, Published};

/// A CA, the bundle, the leaves, and a last look.
const ROUNDS: usize = 4;
/// How many times something is renewed.
const EVENTS: usize = 40;

/// Texts that are or were admitted, in any pair.
const TEXTS: [Option<&str>; 20] = [
    None,
    Some("1ms"),
    Some("500ms"),
    Some("1s"),
    Some("2m30s"),
    Some("4m59s"),
    Some("5m"),
    Some("9m59s"),
    Some("10m"),
    Some("10m1s"),
    Some("12m"),
    Some("15m30s"),
    Some("90m500ms"),
    Some("2h"),
    Some("1h55m"),
    Some("22h0m0s"),
    Some("24h"),
    Some("150h0m0s"),
    Some("876000h"),
    Some("9223372036854775807ms"),
];

fn text() -> impl Strategy<Value = Option<&'static str>> {
    select(TEXTS.to_vec())
}

fn certificate() -> impl Strategy<Value = Value> {
    (text(), text())
        .prop_map(|(duration, renew_before)| json!({"duration": duration, "renewBefore": renew_before}))
}

fn self_signed() -> impl Strategy<Value = Value> {
    (certificate(), certificate()).prop_map(|(ca, server)| json!({"ca": ca, "server": server}))
}

/// By how many seconds the operator is late, as often as something is due.
fn late() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(0..=10_i64, EVENTS)
}

/// What the bundle says of its newest CA.
#[derive(Debug, Clone)]
enum Says {
    Nothing,
    TheTruth,
    AnotherCa,
    TheFuture,
    Nonsense,
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        Just(Says::Nothing),
        Just(Says::TheTruth),
        Just(Says::AnotherCa),
        Just(Says::TheFuture),
        Just(Says::Nonsense)
    ]
}

/// Any state of the cluster: an old CA and a newer one of these ages, each in the bundle or not, and leaves of either.
#[derive(Debug, Clone)]
struct Stored {
    old: (i64, &'static str, bool),
    new: (i64, &'static str, bool),
    since: i64,
    says: Says,
    /// Whose a leaf is (none, of the old CA, of the new, of nobody), its age, and how long it was valid.
    leaves: Vec<(u8, i64, &'static str)>,
}

fn stored() -> impl Strategy<Value = Stored> {
    let valid = || select(vec!["1s", "10m", "12m", "24h", "150h", "168h"]);
    let age = || prop_oneof![0..900_i64, 0..1_000_000_i64];
    let leaves = prop::collection::vec((0..4_u8, age(), valid()), LEAVES.len());
    ((age(), valid(), any::<bool>()), (age(), valid(), any::<bool>()), 0..400_i64, says(), leaves)
        .prop_map(|(old, new, since, says, leaves)| Stored { old, new, since, says, leaves })
}

fn world(asked: Value, stored: &Stored) -> World {
    let mut world = World::new(asked);
    let old = world.put_ca(stored.old.0, stored.old.1);
    let new = world.put_ca(stored.new.0, stored.new.1);
    let at = |seconds: i64| world.now + SignedDuration::from_secs(seconds);
    let published = |fingerprint: &String, at| Published { fingerprint: fingerprint.clone(), at }.to_string();
    let annotation = match stored.says {
        Says::Nothing => None,
        Says::TheTruth => Some(published(&new, at(-stored.since))),
        Says::AnotherCa => Some(published(&old, at(-stored.since))),
        Says::TheFuture => Some(published(&new, at(3600))),
        Says::Nonsense => Some("nonsense".to_owned()),
    };
    let bundle = [(new.clone(), stored.new.2), (old.clone(), stored.old.2)];
    let bundle: Vec<String> = bundle.into_iter().filter(|(_, is_in)| *is_in).map(|(ca, _)| ca).collect();
    world.put_bundle(&bundle, stored.since, annotation);
    for (index, (whose, age, valid)) in stored.leaves.iter().enumerate() {
        let signer = match whose {
            0 => continue,
            1 => Some(old.clone()),
            2 => Some(new.clone()),
            _ => None,
        };
        world.put_leaf(index, signer, *age, valid);
    }
    world
}

/// Lets time pass from one renewal to the next. After each nothing is to be done any more.
fn live(world: &mut World, late: &[i64]) -> Result<(), String> {
    for late in late {
        let mut rounds = 0;
        while world.round()? > 0 {
            rounds += 1;
            if rounds > ROUNDS {
                return Err(format!("at {} there is always something to do: {:?}", world.now, world.steps()));
            }
            world.pass(1);
        }
        let Some(next) = world.next() else { continue };
        world.now = next + SignedDuration::from_secs(*late);
    }
    Ok(())
}

/// Many cases, always the same.
fn cases<S: Strategy>(all: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(all, test)
        .unwrap();
}

#[test]
fn from_any_start_certificates_come_to_rest_and_stay_of_use() {
    cases(&(self_signed(), stored(), late()), |(asked, stored, late)| {
        let mut world = world(asked, &stored);
        world.forgive(MIN_MARGIN);
        prop_assert_eq!(live(&mut world, &late), Ok(()));
        Ok(())
    });
}

#[test]
fn other_durations_may_be_asked_for_at_any_moment() {
    let all = (self_signed(), self_signed(), late(), 0..EVENTS, 0..400_i64);
    cases(&all, |(before, asked, late, when, seconds)| {
        let mut world = World::new(before);
        prop_assert_eq!(live(&mut world, &late[..when]), Ok(()));
        world.pass(seconds);
        world.forgive(MIN_MARGIN);
        world.ask(asked);
        prop_assert_eq!(live(&mut world, &late), Ok(()));
        Ok(())
    });
}

#[test]
fn every_admitted_pair_comes_to_rest_and_stays_of_use() {
    let operator =
        Operator { release: Release::V0_18_0, registry: "registry".into(), namespace: "kubevirt".into() };
    let late: Vec<i64> = (0..EVENTS as i64).map(|n| n * 7 % 11).collect();
    let mut admitted = 0;
    let given = |duration, renew_before| json!({"duration": duration, "renewBefore": renew_before});
    let pairs = || TEXTS.into_iter().flat_map(|duration| TEXTS.map(|renew_before| (duration, renew_before)));
    for (duration, renew_before) in pairs() {
        for asked in [
            json!({"ca": given(duration, renew_before), "server": given(Some("10m"), None)}),
            json!({"ca": given(Some("876000h"), None), "server": given(duration, renew_before)}),
        ] {
            let kubevirt: KubeVirt = serde_json::from_value(json!({
                "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
                "spec": {"certificateRotateStrategy": {"selfSigned": asked}},
            }))
            .unwrap();
            if !validate_create(&kubevirt, false, &operator).is_empty() {
                continue;
            }
            admitted += 1;
            assert_eq!(live(&mut World::new(asked.clone()), &late), Ok(()), "{asked}");
        }
    }
    assert!(admitted > 60, "{admitted}");
}
