//! Updates under load, in every way and with everything in between that a cluster does to one: one table.

mod blows;
mod leader;
mod lives;
mod load;
mod report;
mod rotation;
mod row;
mod sessions;
mod slow;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kubevirt_types::Release;

use crate::product::Product;
use crate::suite::Context;
use crate::vm::schedulable_nodes;
use blows::{Blow, Struck};
use load::{Guests, Size};
use report::Outside;
use row::{Demand, Row};

pub use leader::{frozen, isolated};
pub use sessions::resumed_by_virtctl;
pub use slow::slow_readers;

const OLD: Release = Release::V0_17_0;
const NEW: Release = Release::V0_18_0;

/// How an update is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `spec.imageTag`, from v0.17.0 to v0.18.0.
    Tag,
    /// A newer `kubevirt-operator.yaml`.
    Manifest,
    /// `spec.imageTag`, from v0.18.0 to v0.17.0.
    Rollback,
    /// There, back, and there again.
    ThereBackThere,
    /// Nothing is updated: only the certificates are other ones.
    Rotation,
}

impl Way {
    fn begins_at(self) -> Release {
        match self {
            Self::Tag | Self::Manifest | Self::ThereBackThere => OLD,
            Self::Rollback | Self::Rotation => NEW,
        }
    }

    fn ends_at(self) -> Release {
        match self {
            Self::Tag | Self::Manifest | Self::ThereBackThere | Self::Rotation => NEW,
            Self::Rollback => OLD,
        }
    }

    /// The updates that it is made of.
    fn roads(self) -> Vec<(Release, Release)> {
        let (there, back) = ((OLD, NEW), (NEW, OLD));
        match self {
            Self::Tag | Self::Manifest => vec![there],
            Self::Rollback => vec![back],
            Self::ThereBackThere => vec![there.clone(), back, there],
            Self::Rotation => vec![],
        }
    }

    async fn go(self, product: &Product) -> anyhow::Result<()> {
        let by_tag = async |release: &Release| {
            product.set_tag(&release.to_string()).await?;
            product.wait_for(release).await
        };
        match self {
            Self::Tag | Self::Rollback => by_tag(&self.ends_at()).await,
            Self::Manifest => {
                product.apply_operator(&NEW).await?;
                product.wait_for(&NEW).await
            }
            Self::ThereBackThere => {
                by_tag(&NEW).await?;
                by_tag(&OLD).await?;
                by_tag(&NEW).await
            }
            Self::Rotation => {
                let before = rotation::pods(product).await?;
                println!("    {}", rotation::rotate(product, "140h0m0s", "22h0m0s").await?.what);
                let after = rotation::pods(product).await?;
                ensure!(before == after, "a rotation has changed the pods: {before:?} became {after:?}");
                Ok(())
            }
        }
    }
}

struct Scenario {
    name: &'static str,
    way: Way,
    blow: Blow,
    demand: Demand,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "plain", way: Way::Tag, blow: Blow::None, demand: Demand::Nothing },
    Scenario { name: "rollback", way: Way::Rollback, blow: Blow::None, demand: Demand::Nothing },
    Scenario { name: "by operator manifest", way: Way::Manifest, blow: Blow::None, demand: Demand::Nothing },
    Scenario {
        name: "there, back, there",
        way: Way::ThereBackThere,
        blow: Blow::None,
        demand: Demand::Nothing,
    },
    Scenario { name: "CA rotation", way: Way::Tag, blow: Blow::Rotation, demand: Demand::Nothing },
    Scenario { name: "CA rotation alone", way: Way::Rotation, blow: Blow::None, demand: Demand::Nothing },
    Scenario { name: "kubelet restarted", way: Way::Tag, blow: Blow::Kubelet, demand: Demand::Nothing },
    Scenario { name: "kill -9 every 5 s", way: Way::Tag, blow: Blow::Kills, demand: Demand::WhatWasHit },
    Scenario {
        name: "API server restarted",
        way: Way::Tag,
        blow: Blow::ApiServer,
        demand: Demand::WhatWasHit,
    },
    Scenario { name: "worker cut off for 20 s", way: Way::Tag, blow: Blow::Network, demand: Demand::CutOff },
];

/// One update under a small load.
pub async fn core(context: Context) -> anyhow::Result<()> {
    run(&context, &SCENARIOS[..1], Size::CORE).await
}

/// Every scenario, under all the load that the machine holds.
pub async fn all(context: Context) -> anyhow::Result<()> {
    run(&context, &SCENARIOS, Size::whole()?).await
}

async fn run(context: &Context, scenarios: &[Scenario], size: Size) -> anyhow::Result<()> {
    let chosen: Vec<&Scenario> = scenarios.iter().filter(|scenario| context.wants(scenario.name)).collect();
    ensure!(!chosen.is_empty(), "no scenario is called {:?}", context.case);
    let product = &context.product;
    let mut guests = None;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for scenario in chosen {
        let begins_at = scenario.way.begins_at();
        if product.settled().await?.as_ref() != Some(&begins_at) || scenario.way == Way::Manifest {
            product.bring_to(&begins_at).await?;
        }
        if guests.is_none() {
            guests = Some(Guests::start(context, size).await?);
        }
        let guests = guests.as_ref().context("they were started")?;
        println!("  {}", scenario.name);
        let work = tokio::task::LocalSet::new();
        let row = match work.run_until(one(product, guests, scenario)).await {
            Ok(row) => row,
            // The others say whether it is this one.
            Err(error) => {
                println!("    WRONG: {error:#}");
                failed.push(format!("{}: {error:#}", scenario.name));
                continue;
            }
        };
        for note in &row.notes {
            println!("    {note}");
        }
        for wrong in row.verdict(scenario.demand) {
            println!("    WRONG: {wrong}");
            failed.push(format!("{}: {wrong}", scenario.name));
        }
        rows.push(row);
        println!("{}", Row::table(&rows));
    }
    if let Some(guests) = guests {
        guests.remove().await?;
    }
    // Not between two scenarios: the next would have a rotation in it that is not its own.
    product.patch_spec(serde_json::json!({"certificateRotateStrategy": null})).await?;
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

async fn one(product: &Product, guests: &Guests, scenario: &Scenario) -> anyhow::Result<Row> {
    let to = scenario.way.ends_at();
    let over = AtomicBool::new(false);
    let update = async {
        tokio::time::sleep(scenario.blow.head_start()).await;
        let load = guests.at_work().await?;
        let begun = (Instant::now(), Timestamp::now());
        let outcome = scenario.way.go(product).await;
        over.store(true, Ordering::Relaxed);
        let lasted = (begun.0.elapsed().as_secs_f64(), begun.1..=Timestamp::now());
        let still = load.in_flight().await?;
        anyhow::Ok((load, outcome, lasted, still))
    };
    let strikes = async { Ok(scenario.blow.strike(product, &to, || over.load(Ordering::Relaxed)).await) };
    let ((load, updated, (seconds, lasted), still), struck) = tokio::try_join!(update, strikes)?;
    let mut row = load.finish(scenario.name, seconds).await?;
    row.notes.push(format!("{still} of {} moves were on their way when the update was over", row.migrations));
    if let Err(error) = updated {
        row.complaints.push(format!("{error:#}"));
    }
    match struck {
        Ok(Struck { what, at, kubelet }) => {
            row.notes.push(what);
            if let Some((node, stopped)) = kubelet {
                row.forgive_kubelet(&node, stopped);
            }
            if let Some(at) = at.filter(|at| !lasted.contains(at)) {
                row.complaints.push(format!("it struck at {at}, the update went on from {lasted:?}"));
            }
        }
        Err(error) => row.complaints.push(format!("{error:#}")),
    }
    if scenario.way == Way::Rotation || !row.complaints.is_empty() {
        return Ok(row);
    }
    if scenario.demand != Demand::Nothing {
        row.complaints.extend(report::complaints_of_a_hit(&row, scenario.name).await?);
        return Ok(row);
    }
    let nodes = schedulable_nodes(&product.cluster).await?;
    let roads = scenario.way.roads();
    let outside = Outside { row: &row, nodes: &nodes, alone: roads.len() == 1 };
    let mut complaints = Vec::new();
    for (index, (from, to)) in roads.iter().rev().enumerate() {
        complaints.extend(report::complaints(&outside, index + 1, (from, to)).await?);
    }
    // Three updates take longer than a move.
    if still == 0 && roads.len() == 1 {
        complaints.push("no move outlasted the update".to_owned());
    }
    row.complaints.extend(complaints);
    Ok(row)
}
