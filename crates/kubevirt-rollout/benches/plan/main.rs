//! What one round of the planner costs: `cargo bench -p kubevirt-rollout`.
//!
//! Prints the time of `plan`, `check` and `status` and the memory that `plan` takes at its peak, in the stages of
//! an update of 5,000 nodes with 50,000 VMIs, and how that grows with the cluster. Manifests are made once and kept,
//! as virt-operator does; what that takes is printed too.

mod world;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_rollout::{Direction, Observed, Plan, Policy, Stage, check, plan_with, status};
use kubevirt_types::Release;
use peak_alloc::PeakAlloc;
use world::{Handlers, World};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Calls that are measured, after as many tenths to warm up.
const CALLS: usize = 100;
/// The nodes of the large cluster.
const NODES: usize = 5_000;
/// The aim for one `plan()` there.
const AIM: Duration = Duration::from_millis(50);

fn main() {
    println!("{NODES} nodes, {} VMIs, {CALLS} calls each", NODES * 10);
    println!(
        "{:<26} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "stage", "plan", "p99", "check", "p99", "status", "p99", "peak"
    );
    let slowest = SCENES.iter().map(|scene| scene.measure(NODES).print(scene.name)).max();
    println!();
    println!("{:<26} {:>10} {:>10} {:>12}", "nodes (Handlers, spread)", "plan", "peak", "of 10 nodes");
    let spread = &SCENES[2];
    let sizes: Vec<(usize, Cost)> =
        [10, 100, 1_000, NODES].map(|nodes| (nodes, spread.measure(nodes))).into_iter().collect();
    let smallest = sizes[0].1.plan.median.as_secs_f64();
    for (nodes, cost) in &sizes {
        let ratio = cost.plan.median.as_secs_f64() / smallest;
        println!("{nodes:<26} {:>10} {:>10} {ratio:>11.1}x", ms(cost.plan.median), mib(cost.peak));
    }
    println!();
    let making = times(|| drop(black_box(manifests(&InstallConfig::of(Release::V0_18_0)))));
    println!(
        "making a release's manifests, once per configuration: {} (p99 {})",
        ms(making.median),
        ms(making.p99)
    );
    let slowest = slowest.expect("there are scenes");
    let verdict = if slowest < AIM { "within" } else { "over" };
    println!("slowest plan, median: {} ({verdict} the aim of {})", ms(slowest), ms(AIM));
}

/// A moment of an update.
struct Scene {
    name: &'static str,
    direction: Direction,
    stage: Stage,
    world: fn(usize) -> World,
}

const SCENES: &[Scene] = &[
    Scene {
        name: "Steady",
        direction: Direction::Steady,
        stage: Stage::Settled,
        world: |nodes| World::installed(Release::V0_17_0, nodes),
    },
    Scene {
        name: "Handlers, canary",
        direction: Direction::Update,
        stage: Stage::Handlers,
        world: |nodes| update(nodes, Handlers { old: nodes, new: 1 }),
    },
    Scene {
        name: "Handlers, spread",
        direction: Direction::Update,
        stage: Stage::Handlers,
        world: |nodes| update(nodes, Handlers { old: nodes / 2 + nodes / 10, new: nodes / 2 }),
    },
    Scene {
        name: "Reports",
        direction: Direction::Update,
        stage: Stage::Reports,
        world: |nodes| {
            let mut world = update(nodes, Handlers { old: nodes / 2, new: nodes / 2 });
            world.half_silent = true;
            world.go(Handlers { old: 0, new: nodes });
            world
        },
    },
    Scene {
        name: "Rollback, handlers",
        direction: Direction::Rollback,
        stage: Stage::Handlers,
        world: |nodes| {
            let mut world = World::installed(Release::V0_18_0, nodes);
            world.know(&Release::V0_17_0);
            world.set_tag(&Release::V0_17_0);
            world.go(Handlers { old: nodes / 2 + nodes / 10, new: nodes / 2 });
            world
        },
    },
];

/// An update from v0.17.0 to v0.18.0 that stands where these virt-handlers let it stand.
fn update(nodes: usize, handlers: Handlers) -> World {
    let mut world = World::installed(Release::V0_17_0, nodes);
    world.set_tag(&Release::V0_18_0);
    world.go(handlers);
    world
}

/// What one call takes.
struct Times {
    median: Duration,
    p99: Duration,
}

/// What a scene costs.
struct Cost {
    plan: Times,
    check: Times,
    status: Times,
    peak: usize,
}

impl Scene {
    fn measure(&self, nodes: usize) -> Cost {
        let World { observed, now, .. } = (self.world)(nodes);
        let policy = Policy::default();
        let made = Made::of(&observed);
        let plan = || made.plan(black_box(&observed), &policy, now);
        let planned = plan();
        assert_eq!(
            (planned.direction, planned.stage),
            (self.direction, self.stage),
            "{:?}",
            planned.waiting_on
        );
        Cost {
            plan: times(|| drop(black_box(plan()))),
            check: times(|| assert!(check(black_box(&planned), &observed, &policy, now).is_ok())),
            status: times(|| drop(black_box(status(black_box(&observed), &planned, now)))),
            peak: peak(plan),
        }
    }
}

/// The manifests of the operator's own release, made once.
struct Made(Arc<ManifestSet>);

impl Made {
    fn of(observed: &Observed) -> Self {
        let operator = &observed.operator;
        let registry = operator.registry.clone();
        Self(Arc::new(manifests(&InstallConfig { registry, ..InstallConfig::of(operator.release.clone()) })))
    }

    fn plan(&self, observed: &Observed, policy: &Policy, now: Timestamp) -> Plan {
        plan_with(observed, policy, now, &|config| {
            assert_eq!(*config, self.0.config, "no other manifests are asked for");
            Arc::clone(&self.0)
        })
    }
}

impl Cost {
    fn print(&self, name: &str) -> Duration {
        let Self { plan, check, status, peak } = self;
        println!(
            "{name:<26} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            ms(plan.median),
            ms(plan.p99),
            ms(check.median),
            ms(check.p99),
            ms(status.median),
            ms(status.p99),
            mib(*peak),
        );
        plan.median
    }
}

fn times(call: impl Fn()) -> Times {
    (0..CALLS / 10).for_each(|_| call());
    let mut all: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    all.sort_unstable();
    Times { median: all[CALLS / 2], p99: all[CALLS * 99 / 100] }
}

/// What a plan takes at its peak beyond what was there before, itself included.
fn peak(call: impl Fn() -> Plan) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let plan = call();
    let peak = MEMORY.peak_usage();
    drop(plan);
    peak - before
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn mib(bytes: usize) -> String {
    #[allow(clippy::cast_precision_loss, reason = "it is printed with one decimal")]
    let mib = bytes as f64 / (1024.0 * 1024.0);
    format!("{mib:.1} MiB")
}
