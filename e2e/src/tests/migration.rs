//! Live migration: guests move between nodes and don't notice.

mod kills;
mod limits;
mod network;
mod releases;
mod turns;

use std::time::Instant;

use anyhow::{Context as _, ensure};
use kubevirt_types::Release;
use kubevirt_types::migration::MigrationPhase;
use serde_json::json;

use crate::migration::{MOVE_LIMIT, Migrations};
use crate::suite::Context;
use crate::ticks::{Recorder, in_order, summarize};
use crate::vm::{Vms, schedulable_nodes};
use crate::{demo, virtctl, wait};

pub use kills::kill_matrix;
pub use limits::{converge, queue, timeout};
pub use network::cut;
pub use releases::across;
pub use turns::{backoff, from_one_node};

/// So many moves in `make test`.
const A_FEW: usize = 3;
/// So many in the whole suite.
const MANY: usize = 20;
/// Slow enough for the guest's memory to be caught in flight.
const SLOW: &str = "2Mi";

async fn ready(context: &Context, release: &Release) -> anyhow::Result<()> {
    if context.product.settled().await?.as_ref() != Some(release) {
        context.product.bring_to(release).await?;
    }
    let nodes = schedulable_nodes(&context.cluster).await?;
    ensure!(nodes.len() >= 2, "moving needs two nodes that can run VMs, there are {nodes:?}");
    Ok(())
}

/// Back and forth a few times.
pub async fn core(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    back_and_forth(&context, A_FEW).await
}

/// Back and forth many times, in both releases.
pub async fn twenty(context: Context) -> anyhow::Result<()> {
    for release in [Release::V0_17_0, Release::V0_18_0] {
        ready(&context, &release).await?;
        back_and_forth(&context, MANY / 2).await.with_context(|| format!("in {release}"))?;
    }
    Ok(())
}

/// The guest counts on through every move, on a console that a plain client has opened once.
async fn back_and_forth(context: &Context, moves: usize) -> anyhow::Result<()> {
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    vms.create("mover", "Always", None).await?;
    vms.wait_running("mover").await?;
    demo::first_tick(&context.cluster, &vms, "mover").await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "mover");
    recorder.hears(10).await?;
    let begun = Instant::now();
    let mut rows = Vec::new();
    for number in 1..=moves {
        let started = Instant::now();
        let state = migrations.carry_out(&vms, "mover").await.with_context(|| format!("move {number}"))?;
        let took = started.elapsed().as_secs_f64();
        println!("    move {number}: {} -> {}, {took:.1} s", state.source_node, state.target_node);
        recorder.hears(10).await?;
        rows.push((number, took, state.downtime_milliseconds, started..Instant::now()));
    }
    let record = recorder.finish().await?;
    println!("  move     took  stood, says QEMU  longest between two ticks: by its clock  on the console");
    for (number, took, stood, span) in rows {
        let seen = summarize(&record.ticks, span.start, span.end);
        let stood = stood.map_or("?".to_owned(), |ms| format!("{ms} ms"));
        let (clock, console) = (seen.longest_guest_gap_ms, seen.longest_arrival_gap_ms);
        println!("  {number:>4}  {took:>5.1} s  {stood:>16}  {clock:>36} ms  {console:>11} ms");
    }
    let summary = summarize(&record.ticks, begun, Instant::now());
    println!(
        "  {moves} moves: {} ticks, {} missing, {} out of order, longest gap {} ms by the guest's clock; \
         console dropped {} times",
        summary.ticks, summary.missing, summary.disordered, summary.longest_guest_gap_ms, record.dropped
    );
    ensure!(record.dropped == 0, "the console dropped: {:?}", record.causes);
    in_order(&record.ticks)?;
    one_launcher(&vms, "mover").await?;
    vms.delete("mover").await
}

/// Waits until the only launcher pod that isn't over is the one where the instance is.
async fn one_launcher(vms: &Vms, name: &str) -> anyhow::Result<()> {
    wait::until("one launcher", MOVE_LIMIT, async || {
        let status = vms.vmis.get(name).await?.status.unwrap_or_default();
        let node = status.node_name.clone().unwrap_or_default();
        let nodes: Vec<&String> = status.active_pods.values().collect();
        wait::when(nodes == [&node], format!("on {node}: {:?}", status.active_pods))
    })
    .await
}

/// What can't be moved says why; a second migration waits for nobody; a migration that is cancelled changes nothing.
pub async fn refused_and_cancelled(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let namespace = context.namespace.as_str();
    let missing = virtctl::refused(&["migrate", "ghost", "-n", namespace]).await?;
    ensure!(missing.contains("virtualmachine.kubevirt.io \"ghost\" not found"), "{missing}");

    context
        .product
        .patch_spec(json!({"configuration": {"migrations": {"bandwidthPerMigration": SLOW}}}))
        .await?;
    vms.create("stays", "Always", None).await?;
    vms.wait_running("stays").await?;
    demo::first_tick(&context.cluster, &vms, "stays").await?;
    let recorder = Recorder::start(&context.cluster.client, namespace, "stays");
    recorder.hears(10).await?;
    let before = vms.incarnation("stays").await?;

    let said = virtctl::said(&["migrate", "stays", "-n", namespace]).await?;
    ensure!(said == "VM stays was scheduled to migrate", "{said}");
    let [name] = migrations.in_flight("stays").await?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let second = virtctl::refused(&["migrate", "stays", "-n", namespace]).await?;
    ensure!(second.contains("in-flight migration detected"), "{second}");
    migrations.wait_phase(&name, MigrationPhase::Running).await?;
    let said = virtctl::said(&["migrate-cancel", "stays", "-n", namespace]).await?;
    ensure!(said == "VM stays was scheduled to migrate-cancel", "{said}");
    wait::until("the cancelled migration to be gone", MOVE_LIMIT, async || {
        let left = migrations.api.get_opt(&name).await?;
        wait::when(left.is_none(), format!("{:?}", left.and_then(|m| m.status)))
    })
    .await?;
    let state = vms.vmis.get("stays").await?.status.and_then(|s| s.migration_state).context("a state")?;
    ensure!(state.failed && !state.completed && state.abort_requested, "{state:?}");
    one_launcher(&vms, "stays").await?;
    recorder.hears(10).await?;
    let none = virtctl::refused(&["migrate-cancel", "stays", "-n", namespace]).await?;
    ensure!(none == "Found no migration to cancel for stays", "{none}");
    wait::until("the target pod to be gone", MOVE_LIMIT, async || {
        let pods = vms.launcher_pods("stays").await?.len();
        wait::when(pods == 1, format!("{pods} pods"))
    })
    .await?;
    let after = vms.incarnation("stays").await?;
    ensure!(before == after, "{before:?} became {after:?}");
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    let state = migrations.carry_out(&vms, "stays").await?;
    ensure!(state.source_node == before.node, "{state:?}");
    recorder.hears(10).await?;
    let record = recorder.finish().await?;
    in_order(&record.ticks)?;
    vms.delete("stays").await
}

/// `kubectl drain` of a worker moves its VMs, and they count on.
pub async fn drain(context: Context) -> anyhow::Result<()> {
    ready(&context, &Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let names = ["drained-1", "drained-2", "drained-3"];
    let node = schedulable_nodes(&context.cluster).await?[0].clone();
    for name in names {
        vms.create_near(name, &node).await?;
    }
    let mut recorders = Vec::new();
    for name in names {
        vms.wait_running(name).await?;
        demo::first_tick(&context.cluster, &vms, name).await?;
        let at = vms.vmis.get(name).await?.status.unwrap_or_default().node_name;
        ensure!(at.as_ref() == Some(&node), "{name} began on {at:?} and not on {node}");
        recorders.push(Recorder::start(&context.cluster.client, &context.namespace, name));
    }
    for recorder in &recorders {
        recorder.hears(10).await?;
    }
    let begun = Instant::now();
    let selector = "--pod-selector=kubevirt.io=virt-launcher";
    let drained = tokio::process::Command::new("kubectl")
        .args(["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s", selector])
        .output()
        .await
        .context("running kubectl drain");
    let outcome = async {
        let drained = drained?;
        let complaint = String::from_utf8_lossy(&drained.stderr);
        ensure!(drained.status.success(), "kubectl drain {node}: {complaint}");
        println!("  kubectl drain of {node}: {:.0} s", begun.elapsed().as_secs_f64());
        for (name, recorder) in names.into_iter().zip(&recorders) {
            let status = vms.vmis.get(name).await?.status.unwrap_or_default();
            ensure!(status.node_name.as_ref().is_some_and(|at| *at != node), "{name}: {status:?}");
            recorder.hears(10).await?;
        }
        Ok(())
    }
    .await;
    crate::node::Node(node).cordon(&context.cluster.client, false).await?;
    outcome?;
    for (name, recorder) in names.into_iter().zip(recorders) {
        let record = recorder.finish().await?;
        let summary = summarize(&record.ticks, begun, Instant::now());
        println!("  {name}: {} ticks, longest gap {} ms", summary.ticks, summary.longest_guest_gap_ms);
        in_order(&record.ticks).context(name)?;
        vms.delete(name).await?;
    }
    Ok(())
}
