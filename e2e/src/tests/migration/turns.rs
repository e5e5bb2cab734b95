//! Whose turn it is: a limit for each node, and a drain that waits after a failure.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams};
use kubevirt_types::Release;
use kubevirt_types::migration::MigrationPhase;
use kubevirt_types::{VirtualMachineInstanceMigration, labels};
use serde_json::json;

use super::{SLOW, one_launcher, ready};
use crate::demo;
use crate::migration::{MOVE_LIMIT, Migrations};
use crate::suite::Context;
use crate::vm::{Vms, schedulable_nodes};
use crate::wait::{self, Look};

/// The wait after the first failure of a migration that a drain asked for.
const BACKOFF: Duration = Duration::from_secs(20);

/// Starts a VM where its node is preferred, and says where.
async fn start_at(context: &Context, vms: &Vms, name: &str) -> anyhow::Result<String> {
    let node = schedulable_nodes(&context.cluster).await?.into_iter().next().context("no node")?;
    vms.create_near(name, &node).await?;
    vms.wait_running(name).await?;
    demo::first_tick(&context.cluster, vms, name).await?;
    let at = vms.vmis.get(name).await?.status.unwrap_or_default().node_name;
    ensure!(at.as_ref() == Some(&node), "{name} began on {at:?} and not on {node}");
    Ok(node)
}

/// One guest at a time leaves a node, whatever the cluster would carry; the other says what it waits for.
pub async fn from_one_node(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let names = ["one", "two"];
    let mut node = String::new();
    for name in names {
        node = start_at(&context, &vms, name).await?;
    }
    let limits = json!({"parallelMigrationsPerCluster": 5, "parallelOutboundMigrationsPerNode": 1, "bandwidthPerMigration": "8Mi"});
    context.product.patch_spec(json!({"configuration": {"migrations": limits}})).await?;
    let mut asked = Vec::new();
    for name in names {
        asked.push(migrations.begin(name).await?);
    }
    let mut said = None;
    wait::until("both to have moved, one at a time", MOVE_LIMIT, async || {
        let (mut moving, mut moved) = (Vec::new(), 0);
        for name in &asked {
            let status = migrations.api.get(name).await?.status.unwrap_or_default();
            ensure!(status.phase != MigrationPhase::Failed, "{name}: {status:?}");
            match status.phase {
                MigrationPhase::Succeeded => moved += 1,
                MigrationPhase::Unset | MigrationPhase::Pending => {
                    let waits = status.conditions.iter().find(|c| c.reason.as_deref() == Some("NodeLimit"));
                    said = said.take().or(waits.and_then(|condition| condition.message.clone()));
                }
                _ => moving.push(name.clone()),
            }
        }
        ensure!(moving.len() <= 1, "{moving:?} leave {node} at the same time");
        Ok(if moved == asked.len() { Look::Done(()) } else { Look::NotYet(format!("{moved} moved")) })
    })
    .await?;
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    let said = said.context("nobody waited")?;
    println!("  {said}");
    ensure!(said.contains(&node), "{said}");
    for name in names {
        one_launcher(&vms, name).await?;
        vms.delete(name).await?;
    }
    Ok(())
}

/// A guest that a drain couldn't move is not tried again at once, and then it is.
pub async fn backoff(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let node = start_at(&context, &vms, "tried").await?;
    let limits = json!({"bandwidthPerMigration": SLOW, "completionTimeoutPerGiB": 5});
    context.product.patch_spec(json!({"configuration": {"migrations": limits}})).await?;
    let pod = vms.incarnation("tried").await?.pod;
    let refused = vms.pods.evict(&pod, &EvictParams::default()).await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 429), "{refused:?}");
    let first = over(&migrations, &[]).await?;
    let failed = at(&first, MigrationPhase::Failed)?;
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    // kubectl drain asks again and again; so does the instance that is still to be evacuated.
    drop(vms.pods.evict(&pod, &EvictParams::default()).await);
    let waits = wait::until("the next try to say that it waits", MOVE_LIMIT, async || {
        let all = migrations.api.list(&ListParams::default()).await?.items;
        let conditions = all.iter().flat_map(|migration| migration.status.iter().flat_map(|s| &s.conditions));
        let waits =
            conditions.filter(|c| c.reason.as_deref() == Some("Backoff")).find_map(|c| c.message.clone());
        ensure!(waits.is_some() || at_least_one_moves(&all).is_none(), "it was tried again at once");
        Ok(waits.map_or(Look::NotYet("nothing said".into()), Look::Done))
    })
    .await?;
    let second = over(&migrations, &[first.name_any()]).await?;
    let tried = at(&second, MigrationPhase::Scheduling)?;
    let moved = at(&second, MigrationPhase::Succeeded)?;
    let waited = Duration::try_from(tried.duration_since(failed)).unwrap_or_default();
    println!("  {waits}; tried again {:.1} s after the failure, moved at {moved}", waited.as_secs_f64());
    ensure!(waited >= BACKOFF, "tried again after {waited:?}");
    let now = vms.vmis.get("tried").await?.status.unwrap_or_default().node_name;
    ensure!(now.as_ref().is_some_and(|now| *now != node), "it is at {now:?}");
    one_launcher(&vms, "tried").await?;
    vms.delete("tried").await
}

fn at_least_one_moves(all: &[VirtualMachineInstanceMigration]) -> Option<&VirtualMachineInstanceMigration> {
    all.iter().find(|m| {
        !matches!(m.phase(), MigrationPhase::Unset | MigrationPhase::Pending | MigrationPhase::Failed)
    })
}

/// The migration that a drain asked for and that is over, beside those.
async fn over(migrations: &Migrations, but: &[String]) -> anyhow::Result<VirtualMachineInstanceMigration> {
    wait::until("a migration that a drain asked for to be over", MOVE_LIMIT, async || {
        let all = migrations.api.list(&ListParams::default()).await?.items;
        let one = all.into_iter().find(|migration| {
            migration.annotations().contains_key(labels::EVACUATION_MIGRATION)
                && migration.phase().is_final()
                && !but.contains(&migration.name_any())
        });
        Ok(one.map_or(Look::NotYet("none".into()), Look::Done))
    })
    .await
}

/// When a migration came to a phase.
fn at(migration: &VirtualMachineInstanceMigration, phase: MigrationPhase) -> anyhow::Result<Timestamp> {
    let status = migration.status.clone().unwrap_or_default();
    let reached = status.phase_transition_timestamps.iter().find(|reached| reached.phase == phase);
    reached
        .map(|reached| reached.phase_transition_timestamp)
        .with_context(|| format!("{} was never {phase:?}: {status:?}", migration.name_any()))
}
