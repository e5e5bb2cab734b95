//! The fault matrix: what can go wrong in an update, done on a real cluster, with guests running and people at work.
//!
//! Owns the list of faults and the table that is printed. How a fault is made and looked at is in its module.

mod bad_version;
mod nodes;
mod operator;
mod world;

use std::pin::Pin;
use std::time::Instant;

use anyhow::ensure;

use crate::suite::Context;
use bad_version::BadVersion;
use world::World;

type Outcome<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Row>> + 'a>>;

/// One fault.
struct Case {
    name: &'static str,
    /// Whether `make test` tries it.
    core: bool,
    run: for<'a> fn(&'a World) -> Outcome<'a>,
}

/// What became of one fault.
#[derive(Debug, Default)]
pub struct Row {
    /// Nodes, or replicas of a Deployment, that were ever without a good pod.
    affected: usize,
    /// Seconds from the fault until its cause was in a condition and in an event.
    named: Option<f64>,
    /// Seconds from the fault until all was back, or as it should be.
    back: Option<f64>,
    /// What `virtctl update explain` said, or what else there is to say.
    detail: String,
    /// What should not have been.
    complaints: Vec<String>,
}

/// A case with a bad version, which is data.
macro_rules! bad_version {
    ($name:literal, core: $core:literal, $version:expr) => {
        Case {
            name: $name,
            core: $core,
            run: |world| {
                const VERSION: BadVersion = $version;
                Box::pin(bad_version::run(world, &VERSION))
            },
        }
    };
}

/// A case that is a function.
macro_rules! case {
    ($name:literal, core: $core:literal, $function:path) => {
        Case { name: $name, core: $core, run: |world| Box::pin($function(world)) }
    };
}

/// All of them, each from v0.17.0.
const CASES: &[Case] = &[
    bad_version!("handler-crash", core: true, bad_version::HANDLER_CRASH),
    bad_version!("handler-image-missing", core: false, bad_version::HANDLER_IMAGE_MISSING),
    bad_version!("handler-init-crash", core: false, bad_version::HANDLER_INIT_CRASH),
    bad_version!("handler-pending", core: false, bad_version::HANDLER_PENDING),
    bad_version!("handler-never-ready", core: false, bad_version::HANDLER_NEVER_READY),
    bad_version!("handler-idle", core: false, bad_version::HANDLER_IDLE),
    bad_version!("handler-late-crash", core: false, bad_version::HANDLER_LATE_CRASH),
    bad_version!("handler-crash-pause", core: false, bad_version::HANDLER_CRASH_PAUSE),
    bad_version!("controller-crash", core: false, bad_version::CONTROLLER_CRASH),
    bad_version!("controller-image-missing", core: true, bad_version::CONTROLLER_IMAGE_MISSING),
    bad_version!("controller-late-crash", core: false, bad_version::CONTROLLER_LATE_CRASH),
    bad_version!("api-crash", core: false, bad_version::API_CRASH),
    bad_version!("api-image-missing", core: false, bad_version::API_IMAGE_MISSING),
    bad_version!("api-never-ready", core: false, bad_version::API_NEVER_READY),
    case!("node-lost-canary", core: false, nodes::canary_lost),
    case!("node-lost-other", core: false, nodes::other_lost),
    case!("node-cordoned", core: false, nodes::cordoned),
    case!("operator-killed-thrice-with-a-cordoned-node", core: true, operator::killed_thrice),
    case!("operator-killed-at-every-stage", core: false, operator::killed_at_every_stage),
    case!("operators-fight", core: false, operator::fight),
];

/// Every fault.
pub async fn all(context: Context) -> anyhow::Result<()> {
    matrix(&context, CASES.iter().filter(|case| !case.core || !case.name.contains("thrice")).collect()).await
}

/// The faults that `make test` tries.
pub async fn core(context: Context) -> anyhow::Result<()> {
    matrix(&context, CASES.iter().filter(|case| case.core).collect()).await
}

async fn matrix(context: &Context, cases: Vec<&Case>) -> anyhow::Result<()> {
    let chosen: Vec<&Case> = cases.into_iter().filter(|case| context.wants(case.name)).collect();
    ensure!(!chosen.is_empty(), "no fault is called {:?}", context.case);
    let world = World::start(context).await?;
    let mut rows = Vec::new();
    for (index, case) in chosen.iter().enumerate() {
        println!("  fault {}/{}: {}", index + 1, chosen.len(), case.name);
        let begun = Instant::now();
        let outcome = (case.run)(&world).await;
        let row =
            outcome.unwrap_or_else(|error| Row { complaints: vec![format!("{error:#}")], ..Row::default() });
        let ok = row.complaints.is_empty();
        let word = if ok { "ok" } else { "FAILED" };
        println!("    {word}, {} s: {}", begun.elapsed().as_secs(), row.detail);
        for complaint in &row.complaints {
            println!("    - {complaint}");
        }
        if !ok {
            world.repair().await?;
        }
        rows.push((case.name, row));
    }
    print(&rows);
    let failed: Vec<&str> =
        rows.iter().filter(|(_, row)| !row.complaints.is_empty()).map(|(name, _)| *name).collect();
    ensure!(failed.is_empty(), "{} of {} faults: {}", failed.len(), rows.len(), failed.join(", "));
    Ok(())
}

fn print(rows: &[(&str, Row)]) {
    let seconds = |time: Option<f64>| time.map_or("-".to_owned(), |seconds| format!("{seconds:.0}"));
    println!("\n  {:<45} {:>8} {:>8} {:>8}  what was said", "fault", "affected", "named s", "back s");
    for (name, row) in rows {
        let mark = if row.complaints.is_empty() { "" } else { "FAILED: " };
        println!(
            "  {name:<45} {:>8} {:>8} {:>8}  {mark}{}",
            row.affected,
            seconds(row.named),
            seconds(row.back),
            row.detail
        );
    }
    println!();
}
