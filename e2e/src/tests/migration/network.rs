//! The network between two launchers is cut at any moment of a move: the guest goes on in exactly one place.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubevirt_types::Release;
use kubevirt_types::migration::MigrationPhase;
use serde_json::json;

use super::{SLOW, one_launcher, ready};
use crate::demo;
use crate::migration::{MOVE_LIMIT, Migrations};
use crate::node::Node;
use crate::suite::Context;
use crate::ticks::{Recorder, in_order, summarize};
use crate::vm::Vms;
use crate::wait::{self, Look};

/// Fast enough to get to the hand-over within the cuts below, slow enough to be caught on the way.
const BRISK: &str = "24Mi";
/// Shorter than the launchers' patience with each other, 15 s.
const SHORT: Duration = Duration::from_secs(8);
/// Longer than it.
const LONG: Duration = Duration::from_secs(25);
/// What each cut is: how long after the phase was seen it begins, how long it lasts, how fast the guest moves.
const CUTS: [(&str, Duration, Duration); 8] = [
    (SLOW, Duration::from_secs(2), SHORT),
    (SLOW, Duration::from_secs(2), LONG),
    (BRISK, Duration::ZERO, LONG),
    (BRISK, Duration::from_millis(700), LONG),
    (BRISK, Duration::from_millis(1400), LONG),
    (BRISK, Duration::from_millis(2100), LONG),
    (BRISK, Duration::from_millis(2800), LONG),
    (BRISK, Duration::from_millis(3500), LONG),
];

/// Every cut; prints what became of the guest.
pub async fn cut(context: Context) -> anyhow::Result<()> {
    ensure!(crate::node::is_ours(), "cutting needs nodes that this machine reaches into");
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    vms.create("cut", "Always", None).await?;
    vms.wait_running("cut").await?;
    demo::first_tick(&context.cluster, &vms, "cut").await?;
    let before = vms.vmis.get("cut").await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "cut");
    recorder.hears(10).await?;
    for (bandwidth, after, lasts) in CUTS {
        let limits = json!({"configuration": {"migrations": {"bandwidthPerMigration": bandwidth}}});
        context.product.patch_spec(limits).await?;
        let how = format!("{bandwidth}/s, cut {after:?} after its begin for {lasts:?}");
        let fate = one(&vms, &migrations, after, lasts).await.with_context(|| how.clone())?;
        println!("  {how}: {fate}");
        one_launcher(&vms, "cut").await.with_context(|| how.clone())?;
        recorder.hears(10).await.with_context(|| how.clone())?;
        if lasts == SHORT {
            ensure!(fate.contains("Succeeded"), "{how}: shorter than anybody's patience, but {fate}");
        }
    }
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    migrations.carry_out(&vms, "cut").await.context("a move behind all cuts")?;
    recorder.hears(10).await?;
    ensure!(vms.vmis.get("cut").await?.uid() == before.uid(), "it is another instance");
    let record = recorder.finish().await?;
    let summary = record.ticks.first().zip(record.ticks.last()).context("no tick")?;
    let summary = summarize(&record.ticks, summary.0.arrived, summary.1.arrived);
    println!(
        "  {} ticks, {} missing, {} out of order, longest gap {} ms by the guest's clock; console dropped {} times",
        summary.ticks, summary.missing, summary.disordered, summary.longest_guest_gap_ms, record.dropped
    );
    in_order(&record.ticks)?;
    vms.delete("cut").await
}

/// Cuts one move, mends the network, and says how it ended.
async fn one(vms: &Vms, migrations: &Migrations, after: Duration, lasts: Duration) -> anyhow::Result<String> {
    let name = migrations.begin("cut").await?;
    let (node, address) = wait::until("the move to begin", MOVE_LIMIT, async || {
        let status = migrations.api.get(&name).await?.status.unwrap_or_default();
        ensure!(!status.phase.is_final(), "it was over before: {:?}", status.migration_state);
        let state = vms.vmis.get("cut").await?.status.and_then(|s| s.migration_state).unwrap_or_default();
        let begun =
            state.migration_uid == migrations.api.get(&name).await?.uid() && state.start_timestamp.is_some();
        Ok(match state.target_node_address {
            Some(address) if begun => Look::Done((Node(state.target_node), address)),
            _ => Look::NotYet(format!("{:?}", status.phase)),
        })
    })
    .await?;
    tokio::time::sleep(after).await;
    node.cut_off(&address).await?;
    tokio::time::sleep(lasts).await;
    node.mend(&address).await?;
    let state = wait::until("the move to be over", MOVE_LIMIT, async || {
        let status = migrations.api.get(&name).await?.status.unwrap_or_default();
        Ok(match status.phase {
            MigrationPhase::Succeeded | MigrationPhase::Failed => Look::Done(status),
            phase => Look::NotYet(format!("{phase:?}, {:?}", status.migration_state)),
        })
    })
    .await?;
    let at = vms.vmis.get("cut").await?.status.unwrap_or_default().node_name;
    let moved = state.migration_state.unwrap_or_default();
    let expected =
        if state.phase == MigrationPhase::Succeeded { &moved.target_node } else { &moved.source_node };
    ensure!(at.as_ref() == Some(expected), "{:?}, but it is at {at:?}: {moved:?}", state.phase);
    Ok(format!("{:?}, {}", state.phase, moved.failure_reason.unwrap_or_else(|| "no word".into())))
}
