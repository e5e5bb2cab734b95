//! What people do to a VM with virtctl and kubectl, in v0.18.0: start it paused, stop its clock, look at its screen, scale.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kubevirt_types::Release;
use kubevirt_types::vm::PrintableStatus;
use serde_json::json;

use crate::suite::Context;
use crate::ticks::{Recorder, summarize};
use crate::vm::{Vms, tick_spec};
use crate::{demo, virtctl, wait};

const LIMIT: Duration = Duration::from_secs(180);
/// Long enough to tell a clock that stands from one that is slow: 20 ticks.
const STANDING: Duration = Duration::from_secs(2);

/// Started paused it doesn't tick; unpaused, paused and unpaused again it never loses one.
pub async fn pause_and_unpause(context: Context) -> anyhow::Result<()> {
    context.product.bring_to(&Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let namespace = context.namespace.as_str();
    vms.create("clock", "Manual", None).await?;
    vms.wait_printable("clock", PrintableStatus::Stopped).await?;
    virtctl::said(&["start", "clock", "--paused", "-n", namespace]).await?;
    vms.wait_printable("clock", PrintableStatus::Paused).await?;
    let recorder = Recorder::start(&context.cluster.client, namespace, "clock");
    tokio::time::sleep(STANDING).await;
    ensure!(recorder.heard() == 0, "it ticks though it was started paused");
    let said = virtctl::said(&["unpause", "vm", "clock", "-n", namespace]).await?;
    ensure!(said == "VMI clock was scheduled to unpause", "{said}");
    recorder.hears(10).await?;
    virtctl::said(&["pause", "vmi", "clock", "-n", namespace]).await?;
    vms.wait_printable("clock", PrintableStatus::Paused).await?;
    let twice = virtctl::refused(&["pause", "vmi", "clock", "-n", namespace]).await?;
    ensure!(twice.contains("already paused"), "{twice}");
    let heard = recorder.heard();
    tokio::time::sleep(STANDING).await;
    ensure!(recorder.heard() == heard, "it ticks though it is paused");
    virtctl::said(&["unpause", "vmi", "clock", "-n", namespace]).await?;
    vms.wait_printable("clock", PrintableStatus::Running).await?;
    recorder.hears(10).await?;
    let record = recorder.finish().await?;
    let (first, last) = (record.ticks.first(), record.ticks.last());
    let (first, last) = (first.context("no tick")?, last.context("no tick")?);
    let summary = summarize(&record.ticks, first.arrived, last.arrived);
    ensure!(summary.missing == 0 && summary.disordered == 0 && record.dropped == 0, "{summary:?}");
    vms.delete("clock").await
}

/// A PNG of the screen, with something on it.
pub async fn screenshot(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("seen", "Always", None).await?;
    vms.wait_running("seen").await?;
    demo::first_tick(&context.cluster, &vms, "seen").await?;
    let file = std::env::temp_dir().join(format!("kubevirt-rs-screen-{}.png", std::process::id()));
    let path = file.to_string_lossy();
    let namespace = context.namespace.as_str();
    let args = ["vnc", "screenshot", "seen", "-n", namespace, "-f", &path];
    virtctl::done(&args).await?;
    let picture = std::fs::read(&file).context("reading the picture")?;
    let decoder = png::Decoder::new(std::io::Cursor::new(&picture));
    let mut reader = decoder.read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("a picture of this size")?];
    let info = reader.next_frame(&mut pixels)?;
    let bright = pixels[..info.buffer_size()].iter().filter(|byte| **byte > 100).count();
    println!("  {}x{} pixels, {bright} bright bytes: {path}", info.width, info.height);
    ensure!(info.width >= 640 && info.height >= 400, "{}x{}", info.width, info.height);
    // A line of text has thousands; a screen that nobody has written to has none.
    ensure!(bright > 500, "the screen is dark: {bright} bright bytes in {path}");
    std::fs::remove_file(&file)?;
    vms.delete("seen").await
}

/// A replica set follows its scale subresource, as `kubectl scale` and autoscalers use it.
pub async fn scale(context: Context) -> anyhow::Result<()> {
    context.product.bring_to(&Release::V0_18_0).await?;
    let api = context.product.replica_sets(&context.namespace);
    let object = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
        "metadata": {"name": "many"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"set": "many"}},
            "template": {"metadata": {"labels": {"set": "many"}}, "spec": tick_spec(None)},
        },
    }))?;
    api.create(&PostParams::default(), &object).await?;
    for replicas in [1, 3, 0] {
        let scale = json!({"spec": {"replicas": replicas}});
        api.patch_scale("many", &PatchParams::default(), &Patch::Merge(&scale)).await?;
        wait::until(format!("{replicas} ready replicas"), LIMIT, async || {
            let status = api.get("many").await?.data["status"].clone();
            let ready = status["readyReplicas"].as_i64().unwrap_or(0);
            let all = status["replicas"].as_i64().unwrap_or(0);
            wait::when((ready, all) == (replicas, replicas), status)
        })
        .await?;
    }
    api.delete("many", &kube::api::DeleteParams::default()).await?;
    Ok(())
}
