//! Launchers of one release under virt-handlers of the other, and moves between launchers of both.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use kubevirt_types::Release;
use kubevirt_types::vm::PrintableStatus;

use super::{one_launcher, ready};
use crate::migration::Migrations;
use crate::suite::Context;
use crate::ticks::{Recorder, in_order, summarize};
use crate::vm::Vms;
use crate::{demo, virtctl};

/// A guest of each release lives through the change to the other, is driven and moved there, and back.
pub async fn across(context: Context) -> anyhow::Result<()> {
    for (old, new) in [(Release::V0_17_0, Release::V0_18_0), (Release::V0_18_0, Release::V0_17_0)] {
        one_way(&context, &old, &new).await.with_context(|| format!("from {old} to {new}"))?;
    }
    Ok(())
}

async fn one_way(context: &Context, old: &Release, new: &Release) -> anyhow::Result<()> {
    ready(context, old).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let namespace = context.namespace.as_str();
    for name in ["moves", "stops"] {
        vms.create(name, "Manual", None).await?;
        virtctl::said(&["start", name, "-n", namespace]).await?;
    }
    for name in ["moves", "stops"] {
        vms.wait_running(name).await?;
        demo::first_tick(&context.cluster, &vms, name).await?;
    }
    let begun = Instant::now();
    let recorder = Recorder::start(&context.cluster.client, namespace, "moves");
    recorder.hears(10).await?;
    ready(context, new).await?;
    let virt_launcher_of = async |release: &Release| -> anyhow::Result<()> {
        let image = vms.vmis.get("moves").await?.status.and_then(|s| s.launcher_container_image_version);
        ensure!(
            image.as_ref().is_some_and(|image| image.ends_with(&format!(":{release}"))),
            "runs {image:?}, and not {release}'s virt-launcher"
        );
        Ok(())
    };
    virt_launcher_of(old).await?;
    if *new == Release::V0_18_0 {
        virtctl::said(&["pause", "vmi", "moves", "-n", namespace]).await?;
        vms.wait_printable("moves", PrintableStatus::Paused).await?;
        virtctl::said(&["unpause", "vmi", "moves", "-n", namespace]).await?;
        vms.wait_printable("moves", PrintableStatus::Running).await?;
        recorder.hears(10).await?;
    }
    // From a launcher of the one release to one of the other, and then between two of the same.
    for number in 1..=2 {
        let state = migrations.carry_out(&vms, "moves").await.with_context(|| format!("move {number}"))?;
        println!("  {old} to {new}: move {number}, downtime {:?} ms", state.downtime_milliseconds);
        recorder.hears(10).await?;
        virt_launcher_of(new).await?;
    }
    one_launcher(&vms, "moves").await?;
    virtctl::said(&["stop", "stops", "-n", namespace]).await?;
    vms.wait_printable("stops", PrintableStatus::Stopped).await?;
    let record = recorder.finish().await?;
    let summary = summarize(&record.ticks, begun, Instant::now());
    println!("  {old} to {new}: {} ticks, console dropped {} times", summary.ticks, record.dropped);
    in_order(&record.ticks)?;
    for name in ["moves", "stops"] {
        vms.delete(name).await?;
    }
    Ok(())
}
