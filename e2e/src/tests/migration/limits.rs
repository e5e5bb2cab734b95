//! How many guests move at a time, and how long one may take.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use kubevirt_types::Release;
use kubevirt_types::migration::MigrationPhase;
use serde_json::json;

use super::{SLOW, one_launcher, ready};
use crate::console;
use crate::demo;
use crate::migration::{MOVE_LIMIT, Migrations};
use crate::suite::Context;
use crate::ticks::{Recorder, in_order};
use crate::vm::Vms;
use crate::wait::{self, Look};

/// One guest at a time: the others wait, in the order in which they were asked for, and then move too.
pub async fn queue(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let names = ["first", "second", "third"];
    for name in names {
        vms.create(name, "Always", None).await?;
    }
    for name in names {
        vms.wait_running(name).await?;
        demo::first_tick(&context.cluster, &vms, name).await?;
    }
    let limits = json!({"parallelMigrationsPerCluster": 1});
    context.product.patch_spec(json!({"configuration": {"migrations": limits}})).await?;
    let mut asked = Vec::new();
    for name in names {
        asked.push(migrations.begin(name).await?);
        // Their age, which is their order, is told in seconds.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    let mut ended = Vec::new();
    wait::until("all three to have moved, one at a time", MOVE_LIMIT, async || {
        let mut moving = Vec::new();
        for name in &asked {
            let status = migrations.api.get(name).await?.status.unwrap_or_default();
            ensure!(status.phase != MigrationPhase::Failed, "{name}: {status:?}");
            match status.phase {
                MigrationPhase::Unset | MigrationPhase::Pending => {}
                MigrationPhase::Succeeded if ended.contains(name) => {}
                MigrationPhase::Succeeded => ended.push(name.clone()),
                _ => moving.push(name.as_str()),
            }
        }
        ensure!(moving.len() <= 1, "{moving:?} move at the same time");
        Ok(if ended.len() == asked.len() { Look::Done(()) } else { Look::NotYet(format!("{moving:?}")) })
    })
    .await?;
    ensure!(ended == asked, "asked for {asked:?}, moved {ended:?}");
    println!("  three moves, one at a time: {}", ended.join(", "));
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    for name in names {
        one_launcher(&vms, name).await?;
        vms.delete(name).await?;
    }
    Ok(())
}

/// A move that takes longer than it may is given up, says so, and the guest goes on where it was.
pub async fn timeout(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    vms.create("late", "Always", None).await?;
    vms.wait_running("late").await?;
    demo::first_tick(&context.cluster, &vms, "late").await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "late");
    recorder.hears(10).await?;
    let before = vms.incarnation("late").await?;
    let limits = json!({"bandwidthPerMigration": SLOW, "completionTimeoutPerGiB": 5});
    context.product.patch_spec(json!({"configuration": {"migrations": limits}})).await?;
    let name = migrations.begin("late").await?;
    migrations.wait_phase(&name, MigrationPhase::Failed).await?;
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    let state = vms.vmis.get("late").await?.status.and_then(|s| s.migration_state).context("a state")?;
    let why = state.failure_reason.unwrap_or_default();
    println!("  {why}");
    ensure!(why.contains("is not completed after 5 seconds and has been aborted"), "{why}");
    wait::until("the target pod to be gone", MOVE_LIMIT, async || {
        let pods = vms.launcher_pods("late").await?.len();
        wait::when(pods == 1, format!("{pods} pods"))
    })
    .await?;
    ensure!(vms.incarnation("late").await? == before, "another one runs it");
    recorder.hears(10).await?;
    in_order(&recorder.finish().await?.ticks)?;
    vms.delete("late").await
}

/// A guest that writes its memory faster than the network carries it away doesn't move, until it may be slowed down.
pub async fn converge(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    vms.create("writes", "Always", None).await?;
    vms.wait_running("writes").await?;
    demo::first_tick(&context.cluster, &vms, "writes").await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "writes");
    recorder.hears(10).await?;
    let mut console = console::attach(&context.cluster.client, &context.namespace, "writes").await?;
    console::type_line(&mut console, "write").await?;
    console::until(&mut console, "guest: writing", MOVE_LIMIT).await?;
    drop(console);
    for (slows_down, wanted) in [(false, MigrationPhase::Failed), (true, MigrationPhase::Succeeded)] {
        let seconds = if slows_down { 0 } else { 60 };
        let limits = json!({
            "bandwidthPerMigration": "4Mi", "completionTimeoutPerGiB": seconds, "progressTimeout": 0,
            "allowAutoConverge": slows_down,
        });
        context.product.patch_spec(json!({"configuration": {"migrations": limits}})).await?;
        let begun = Instant::now();
        let name = migrations.begin("writes").await?;
        migrations
            .wait_phase(&name, wanted)
            .await
            .with_context(|| format!("allowAutoConverge {slows_down}"))?;
        let state =
            migrations.api.get(&name).await?.status.and_then(|s| s.migration_state).context("a state")?;
        println!(
            "  allowAutoConverge {slows_down}: {wanted:?} after {:.0} s, {:?}",
            begun.elapsed().as_secs_f64(),
            state.progress
        );
        one_launcher(&vms, "writes").await?;
    }
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    recorder.hears(10).await?;
    in_order(&recorder.finish().await?.ticks)?;
    vms.delete("writes").await
}
