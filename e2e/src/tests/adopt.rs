//! A virt-handler that is killed comes back and takes what it finds: booting, running, paused or stopping, the guest doesn't
//! notice. (While guests move: migration::kill_matrix.)

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VmiPhase};
use serde_json::json;

use crate::node::{Node, Signal};
use crate::product::{is_ready, restarts};
use crate::suite::Context;
use crate::ticks::{Recorder, in_order};
use crate::vm::{Vms, tick_vm};
use crate::{demo, virtctl, wait};

const LIMIT: Duration = Duration::from_secs(180);
/// What a guest gets that doesn't hear the power button: long enough for virt-handler to be killed and to come back.
const GRACE: Duration = Duration::from_secs(45);

/// Every state that lasts.
pub async fn in_any_state(context: Context) -> anyhow::Result<()> {
    ensure!(crate::node::is_ours(), "killing needs nodes that this machine reaches into");
    context.product.bring_to(&Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    booting(&context, &vms).await.context("booting")?;
    rested(&context).await?;
    running_and_paused(&context, &vms).await.context("running")?;
    rested(&context).await?;
    stopping(&context, &vms).await.context("stopping")
}

/// Puts another pod in the place of each that was killed: the kubelet waits the longer before it starts one again, the more
/// often it has, and a virt-handler that is away for minutes is another test's.
async fn rested(context: &Context) -> anyhow::Result<()> {
    let pods = context.product.all_pods();
    for pod in context.product.pods("virt-handler").await?.iter().filter(|pod| restarts(pod) > 0) {
        pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("it has a node")?;
        wait::until(format!("another virt-handler on {node}"), LIMIT, async || {
            let other = context.product.handler_on(node).await?;
            let ready = is_ready(&other) && restarts(&other) == 0;
            wait::when(ready, format!("{}: {} restarts", other.name_any(), restarts(&other)))
        })
        .await?;
    }
    Ok(())
}

/// Killed again and again until the guest is up, it starts one QEMU, once.
async fn booting(context: &Context, vms: &Vms) -> anyhow::Result<()> {
    vms.create("boots", "Always", None).await?;
    let node = wait::until("the instance to be handed to virt-handler", LIMIT, async || {
        let status = vms.vmis.get_opt("boots").await?.and_then(|vmi| vmi.status).unwrap_or_default();
        Ok(match status.node_name {
            Some(node) => wait::Look::Done(node),
            None => wait::Look::NotYet(format!("{:?}", status.phase)),
        })
    })
    .await?;
    let first = kill_handler(context, &node).await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "boots");
    back(context, &first).await?;
    let second = kill_handler(context, &node).await?;
    vms.wait_running("boots").await?;
    back(context, &second).await?;
    demo::first_tick(&context.cluster, vms, "boots").await?;
    recorder.hears(20).await?;
    let record = recorder.finish().await?;
    ensure!(record.ticks.first().is_some_and(|tick| tick.number == 0), "{:?}", record.ticks.first());
    in_order(&record.ticks)?;
    let incarnation = vms.incarnation("boots").await?;
    ensure!(incarnation.restarts == 0, "{incarnation:?}");
    println!("  booting: virt-handler killed twice, one QEMU, {} ticks from 0 on", record.ticks.len());
    vms.delete("boots").await
}

/// It runs on; one that is paused stays so, and goes on when it is told to.
async fn running_and_paused(context: &Context, vms: &Vms) -> anyhow::Result<()> {
    let namespace = context.namespace.as_str();
    vms.create("runs", "Always", None).await?;
    vms.wait_running("runs").await?;
    demo::first_tick(&context.cluster, vms, "runs").await?;
    let recorder = Recorder::start(&context.cluster.client, namespace, "runs");
    recorder.hears(10).await?;
    let before = vms.incarnation("runs").await?;
    let killed = kill_handler(context, &before.node).await?;
    recorder.hears(20).await?;
    back(context, &killed).await?;
    virtctl::said(&["pause", "vmi", "runs", "-n", namespace]).await?;
    vms.wait_printable("runs", PrintableStatus::Paused).await?;
    let heard = recorder.heard();
    let killed = kill_handler(context, &before.node).await?;
    back(context, &killed).await?;
    ensure!(recorder.heard() == heard, "it was paused, and ticks");
    let printable = vms.vms.get("runs").await?.status.and_then(|status| status.printable_status);
    ensure!(printable == Some(PrintableStatus::Paused), "{printable:?}");
    virtctl::said(&["unpause", "vmi", "runs", "-n", namespace]).await?;
    recorder.hears(20).await?;
    let after = vms.incarnation("runs").await?;
    ensure!(before == after, "{before:?} became {after:?}");
    let record = recorder.finish().await?;
    in_order(&record.ticks)?;
    println!("  running and paused: virt-handler killed twice, console dropped {} times", record.dropped);
    vms.delete("runs").await
}

/// A guest that doesn't hear the power button has the time that it was given, and no more.
async fn stopping(context: &Context, vms: &Vms) -> anyhow::Result<()> {
    let mut vm = tick_vm("deaf", "Manual", None);
    let spec = &mut vm["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(GRACE.as_secs());
    spec["domain"]["firmware"]["kernelBoot"]["kernelArgs"] = json!("console=ttyS0 quiet acpi=off");
    vms.vms.create(&PostParams::default(), &serde_json::from_value(vm)?).await?;
    virtctl::said(&["start", "deaf", "-n", &context.namespace]).await?;
    vms.wait_running("deaf").await?;
    demo::first_tick(&context.cluster, vms, "deaf").await?;
    let before = vms.incarnation("deaf").await?;
    let asked = Instant::now();
    virtctl::said(&["stop", "deaf", "-n", &context.namespace]).await?;
    vms.wait_printable("deaf", PrintableStatus::Stopping).await?;
    let killed = kill_handler(context, &before.node).await?;
    back(context, &killed).await?;
    let vmi = vms.vmis.get_opt("deaf").await?.context("it is gone before its time")?;
    let phase = vmi.status.clone().unwrap_or_default().phase;
    ensure!(phase == VmiPhase::Running, "{phase:?} before its time, {:?}", asked.elapsed());
    vms.wait_printable("deaf", PrintableStatus::Stopped).await?;
    let took = asked.elapsed();
    // When it was deleted is told in whole seconds.
    ensure!(took + Duration::from_secs(1) >= GRACE, "it had {took:?} of {GRACE:?}");
    println!("  stopping: virt-handler killed, the guest had {:.0} s of {GRACE:?}", took.as_secs_f64());
    vms.delete("deaf").await
}

/// A container of virt-handler that was killed.
struct Killed {
    pod: String,
    restarts: i32,
}

async fn kill_handler(context: &Context, node: &str) -> anyhow::Result<Killed> {
    let pod = context.product.handler_on(node).await?;
    let killed = Killed { pod: pod.name_any(), restarts: restarts(&pod) };
    Node(node.to_owned()).signal(&killed.pod, Signal::Kill).await?;
    Ok(killed)
}

/// Waits until the kubelet has started it again, and it is ready.
async fn back(context: &Context, killed: &Killed) -> anyhow::Result<()> {
    wait::until("virt-handler to be back", LIMIT, async || {
        let pod = context.product.all_pods().get(&killed.pod).await?;
        let ready = is_ready(&pod);
        let restarts = restarts(&pod);
        wait::when(ready && restarts > killed.restarts, format!("ready {ready}, {restarts} restarts"))
    })
    .await
}
