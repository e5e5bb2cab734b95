//! Chance: users, vandals, crashes and stale views in random order. The promise holds at every moment, and when
//! they stop, the last target is reached.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_sim::{Cluster, Random};
use kubevirt_types::{ObjectKey, Release};
use serde_json::json;
use support::{assert_at, installed_on, settle};

/// Sequences that are tried.
const SEQUENCES: u64 = 6;
/// Seconds in which something may happen.
const SECONDS: usize = 150;

/// Objects that a vandal may take without breaking what only the next plan can mend.
fn victims(cluster: &Cluster) -> Vec<ObjectKey> {
    let kinds = ["Service", "PodDisruptionBudget", "APIService", "MutatingWebhookConfiguration"];
    cluster.contents().into_keys().filter(|key| kinds.contains(&key.kind.as_str())).collect()
}

fn pick<T: Clone>(random: &mut Random, of: &[T]) -> Option<T> {
    let count = u64::try_from(of.len()).ok().filter(|count| *count > 0)?;
    of.get(usize::try_from(random.below(count)).ok()?).cloned()
}

fn sequence(seed: u64) -> usize {
    let mut random = Random::new(seed);
    let nodes = usize::try_from(1 + random.below(4)).unwrap();
    let from = if random.one_in(2) { Release::V0_17_0 } else { Release::V0_18_0 };
    let (mut operator, mut cluster) = installed_on(nodes, from.clone(), seed);
    let mut target = from;
    let mut events = 0;
    for _ in 0..SECONDS {
        match random.below(40) {
            0 | 1 => {
                target = pick(&mut random, &Release::ALL).unwrap();
                cluster.set_image_tag(Some(&target.to_string()));
            }
            2 => cluster.set_log_verbosity(),
            3 => operator = operator.restarted(),
            4 => {
                if let Some(key) = pick(&mut random, &victims(&cluster)) {
                    cluster.vandalise(&key);
                }
            }
            5 => {
                let key = ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api");
                cluster.tamper(&key, "/spec/ports/0/targetPort", json!(1));
            }
            _ => {
                cluster.tick();
                continue;
            }
        }
        events += 1;
        let view = cluster.observe();
        for _ in 0..random.below(4) {
            cluster.tick();
        }
        let budget = usize::try_from(random.below(6)).unwrap();
        let fresh = random.one_in(2);
        let done = match fresh {
            true => operator.reconcile(&mut cluster, budget),
            false => operator.reconcile_from(&mut cluster, &view, budget),
        };
        done.and_then(|_| operator.watch(&cluster)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        operator.run(&mut cluster, 3).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &target);
    events
}

#[test]
fn whatever_happens_the_promise_holds_and_the_end_is_reached() {
    let events: usize = (0..SEQUENCES).map(sequence).sum();
    println!("{SEQUENCES} sequences, {events} events");
}
