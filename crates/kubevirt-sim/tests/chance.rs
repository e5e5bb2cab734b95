//! Chance: users, vandals, faulty images, nodes that fail, crashes, stale and delayed views and lost leases in random
//! order. The promise holds at every moment, and when all that stops, the last target is reached in bounded time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kubevirt_rollout::Observed;
use kubevirt_sim::{Cluster, Fault, Operator, Part, Random, delayed, say};
use kubevirt_types::kubevirt::OnFailure;
use kubevirt_types::{ObjectKey, Release};
use serde_json::json;
use support::{assert_at, installed_on, settle, tail};

/// Sequences that are tried; `KUBEVIRT_SEQUENCES` says how many.
const SEQUENCES: u64 = 6;
/// Seconds in which something may happen.
const SECONDS: usize = 260;
/// Views that are remembered, one a second.
const VIEWS: usize = 8;

/// Objects that a vandal may take without breaking what only the next plan can mend.
fn victims(cluster: &Cluster) -> Vec<ObjectKey> {
    let kinds = ["Service", "PodDisruptionBudget", "APIService", "MutatingWebhookConfiguration"];
    cluster.contents().into_keys().filter(|key| kinds.contains(&key.kind.as_str())).collect()
}

fn pick<T: Clone>(random: &mut Random, of: &[T]) -> Option<T> {
    let count = u64::try_from(of.len()).ok().filter(|count| *count > 0)?;
    of.get(usize::try_from(random.below(count)).ok()?).cloned()
}

const FAULTS: [Fault; 9] = [
    Fault::ImageMissing,
    Fault::Crashes,
    Fault::InitCrashes,
    Fault::Unschedulable,
    Fault::NeverReady,
    Fault::NodeUnable,
    Fault::Silent,
    Fault::CrashesAfter(15),
    Fault::CrashesAfter(60),
];

/// A world and what happens to it.
struct Sequence {
    seed: u64,
    random: Random,
    operator: Operator,
    cluster: Cluster,
    target: Release,
    /// An operator that has lost the lease and doesn't know it, what it saw, and how many writes it still makes.
    deposed: Option<(Operator, Observed, usize)>,
    views: Vec<Observed>,
    lost: Vec<String>,
    events: usize,
    faults: usize,
    deposals: usize,
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = usize::try_from(1 + random.below(5)).unwrap();
        let from = if random.one_in(2) { Release::V0_17_0 } else { Release::V0_18_0 };
        let (operator, cluster) = installed_on(nodes, from.clone(), seed);
        Self {
            seed,
            random,
            operator,
            cluster,
            target: from,
            deposed: None,
            views: vec![],
            lost: vec![],
            events: 0,
            faults: 0,
            deposals: 0,
        }
    }

    fn must<T>(&self, done: Result<T, String>) -> T {
        done.unwrap_or_else(|broken| {
            panic!(
                "seed {} at {}: {broken}\nlast writes:\n{}",
                self.seed,
                self.cluster.now(),
                tail(&self.cluster)
            )
        })
    }

    /// Something happens.
    fn event(&mut self) {
        self.events += 1;
        let nodes = self.cluster.nodes();
        let event = self.random.below(17);
        self.cluster.log.push(format!("> event {event} at {}", self.cluster.now()));
        match event {
            0..=2 => {
                self.target = pick(&mut self.random, &Release::ALL).unwrap();
                self.cluster.set_image_tag(Some(&self.target.to_string()));
            }
            3 => self.cluster.set_log_verbosity(),
            4 => self.operator = self.operator.restarted(),
            5 => {
                if let Some(key) = pick(&mut self.random, &victims(&self.cluster)) {
                    self.cluster.vandalise(&key);
                }
            }
            6 => {
                let key = ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api");
                self.cluster.tamper(&key, "/spec/ports/0/targetPort", json!(1));
            }
            7 | 14 | 15 => self.fault(&nodes),
            8 => self.cluster.heal(),
            9 => {
                if let Some(node) = pick(&mut self.random, &nodes).filter(|_| self.lost.is_empty()) {
                    self.cluster.lose_node(&node);
                    self.lost.push(node);
                }
            }
            10 => self.lost.drain(..).for_each(|node| self.cluster.return_node(&node)),
            11 => {
                let on_failure = pick(&mut self.random, &[OnFailure::Rollback, OnFailure::Pause]).unwrap();
                self.cluster.set_on_failure(on_failure);
                self.cluster.retry_update();
            }
            12 => match nodes.len() {
                1 | 2 => self.cluster.add_node(&format!("more-{}", self.events)),
                _ => {
                    let node = pick(&mut self.random, &nodes).unwrap();
                    self.lost.retain(|lost| *lost != node);
                    self.cluster.remove_node(&node);
                }
            },
            _ => {
                let successor = self.operator.restarted();
                let old = std::mem::replace(&mut self.operator, successor);
                let view = self.views.first().cloned().unwrap_or_else(|| self.cluster.observe());
                let writes = usize::try_from(1 + self.random.below(5)).unwrap();
                self.deposed = Some((old, view, writes));
                self.deposals += 1;
            }
        }
    }

    /// New pods of one component fail from now on: those of the release that doesn't run everywhere.
    fn fault(&mut self, nodes: &[String]) {
        let observed = self.cluster.kubevirt().unwrap().status.clone().unwrap().observed_kube_virt_version;
        let other = Release::ALL.into_iter().find(|release| Some(release.to_string()) != observed).unwrap();
        let component =
            pick(&mut self.random, &["virt-handler", "virt-handler", "virt-controller", "virt-api"]).unwrap();
        let fault = pick(&mut self.random, &FAULTS)
            .filter(|fault| component == "virt-handler" || !fault.is_handlers());
        let node = pick(&mut self.random, nodes).filter(|_| self.random.one_in(3));
        if let Some(fault) = fault {
            self.faults += 1;
            self.cluster.inject_image(&format!("kubevirt/{component}:{other}"), node.as_deref(), fault);
        }
    }

    /// One run of an operator that looks at the world in one way or another.
    fn look(&mut self) {
        let fresh = self.cluster.observe();
        self.views.truncate(VIEWS);
        self.views.insert(0, fresh.clone());
        let older = pick(&mut self.random, &self.views).unwrap();
        let view = match self.random.below(4) {
            0 => older,
            1 => {
                let part = pick(&mut self.random, &Part::ALL).unwrap();
                delayed(&fresh, &older, &[part])
            }
            _ => fresh,
        };
        let budget =
            if self.random.one_in(3) { usize::try_from(self.random.below(6)).unwrap() } else { usize::MAX };
        let done = self.operator.reconcile_from(&mut self.cluster, &view, budget);
        self.must(done);
    }

    /// What the deposed operator still does.
    fn linger(&mut self) {
        let Some((mut old, view, writes)) = self.deposed.take() else { return };
        old.watch_like(&self.operator);
        let done = old.reconcile_from(&mut self.cluster, &view, writes);
        self.must(done);
        self.cluster.meddled_by_another();
    }

    fn second(&mut self) {
        match self.random.below(36) {
            0..=2 => self.event(),
            3..=7 => self.look(),
            8 | 9 => self.linger(),
            _ => {
                let done = self.operator.run(&mut self.cluster, 1);
                self.must(done);
            }
        }
        let watched = self.operator.watch(&self.cluster);
        self.must(watched);
    }

    /// All that goes wrong stops, and somebody asks for another try.
    fn calm(&mut self) {
        self.cluster.heal();
        self.lost.drain(..).for_each(|node| self.cluster.return_node(&node));
        self.cluster.set_on_failure(OnFailure::Rollback);
        let done = self.operator.run(&mut self.cluster, 10);
        self.must(done);
        settle(&mut self.operator, &mut self.cluster);
        self.cluster.retry_update();
        settle(&mut self.operator, &mut self.cluster);
        assert_at(&self.cluster, &self.target);
    }
}

#[test]
fn whatever_happens_the_promise_holds_and_the_end_is_reached() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let (first, count) = (number("KUBEVIRT_SEED", 0), number("KUBEVIRT_SEQUENCES", SEQUENCES));
    let (mut events, mut faults, mut deposals, mut plans) = (0, 0, 0, 0);
    for seed in first..first + count {
        let mut sequence = Sequence::new(seed);
        for _ in 0..SECONDS {
            sequence.second();
        }
        sequence.calm();
        events += sequence.events;
        faults += sequence.faults;
        deposals += sequence.deposals;
        plans += sequence.operator.plans;
    }
    say(&format!(
        "chance: {count} sequences from seed {first}, {events} events, {faults} of them faults and {deposals} lost \
         leases, {plans} plans"
    ));
}
