//! Ends that are asked for: a VM that runs once, deletes that wait for the guest, and what flags make of a stop.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VirtualMachineInstance, VmiPhase};
use serde_json::json;

use crate::suite::Context;
use crate::ticks::Recorder;
use crate::vm::{Vms, tick_spec};
use crate::wait::{self, Look};
use crate::{console, demo, virtctl};

/// A guest ends within seconds; a machine under load takes longer.
const LIMIT: Duration = Duration::from_secs(180);
/// A controller that wanted another instance would have made it by then.
const STILL: Duration = Duration::from_secs(5);

/// Once: it starts by itself, and never again.
pub async fn once(context: Context) -> anyhow::Result<()> {
    context.product.bring_to(&Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let namespace = context.namespace.as_str();
    vms.create("once", "Once", None).await?;
    vms.wait_running("once").await?;
    demo::first_tick(&context.cluster, &vms, "once").await?;
    let refused = virtctl::refused(&["restart", "once", "-n", namespace]).await?;
    ensure!(refused.contains("RunStategy Once does not support manual restart requests"), "{refused}");

    let before = vms.incarnation("once").await?;
    let mut socket = console::attach(&context.cluster.client, namespace, "once").await?;
    console::type_line(&mut socket, "poweroff").await?;
    vms.wait_printable("once", PrintableStatus::Stopped).await?;
    tokio::time::sleep(STILL).await;
    let vmi = vms.vmis.get("once").await?;
    let phase = vmi.status.clone().unwrap_or_default().phase;
    ensure!(vmi.uid() == before.vmi_uid && phase == VmiPhase::Succeeded, "{} is {phase:?}", vmi.uid());
    let refused = virtctl::refused(&["start", "once", "-n", namespace]).await?;
    ensure!(refused.contains("Once does not support manual start requests"), "{refused}");

    vms.vmis.delete("once", &DeleteParams::default()).await?;
    wait::until("the instance to be gone", LIMIT, async || {
        wait::when(vms.vmis.get_opt("once").await?.is_none(), "it is there")
    })
    .await?;
    tokio::time::sleep(STILL).await;
    ensure!(vms.vmis.get_opt("once").await?.is_none(), "another instance was made");
    let strategy = |strategy: &str| Patch::Merge(json!({"spec": {"runStrategy": strategy}}));
    vms.vms.patch("once", &PatchParams::default(), &strategy("Halted")).await?;
    wait::until("the strategy to be noted", LIMIT, async || {
        let noted = vms.vms.get("once").await?.status.and_then(|status| status.run_strategy);
        wait::when(noted == Some(kubevirt_types::vm::RunStrategy::Halted), format!("{noted:?}"))
    })
    .await?;
    vms.vms.patch("once", &PatchParams::default(), &strategy("Once")).await?;
    vms.wait_running("once").await?;
    virtctl::said(&["stop", "once", "-n", namespace]).await?;
    vms.wait_printable("once", PrintableStatus::Stopped).await?;
    vms.delete("once").await
}

/// What `kubectl delete --wait` waits for: the guest shuts down, then its pod goes, its instance, its VM.
pub async fn deletes_in_order(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let name = format!("{policy:?}");
        vms.create("goes", "Always", None).await?;
        let parameters = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        let deleted = async || vms.vms.delete("goes", &parameters).await.map(drop);
        gone_in_order(&context, &vms, Top::Vm, deleted).await.context(name)?;
    }
    let mut vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "goes"}, "spec": tick_spec(None),
    }))?;
    // Longer than the test waits: a guest that isn't asked to shut down, but waited for, is seen.
    vmi.spec.termination_grace_period_seconds = Some(LIMIT.as_secs().cast_signed() * 2);
    vms.vmis.create(&PostParams::default(), &vmi).await?;
    let deleted = async || vms.vmis.delete("goes", &DeleteParams::default()).await.map(drop);
    gone_in_order(&context, &vms, Top::Vmi, deleted).await.context("an instance without a VM")?;
    orphaned(&context, &vms).await.context("an orphan")
}

/// What is deleted.
#[derive(Clone, Copy)]
enum Top {
    Vm,
    Vmi,
}

/// Deletes what runs, and looks that nothing goes before what belongs to it.
async fn gone_in_order(
    context: &Context,
    vms: &Vms,
    top: Top,
    delete: impl AsyncFnOnce() -> Result<(), kube::Error>,
) -> anyhow::Result<()> {
    vms.wait_running("goes").await?;
    demo::first_tick(&context.cluster, vms, "goes").await?;
    let mut socket = console::attach(&context.cluster.client, &context.namespace, "goes").await?;
    let begun = Instant::now();
    delete().await?;
    console::until(&mut socket, "guest: powering off", LIMIT).await?;
    let left = wait::until("what was deleted to be gone", LIMIT, async || {
        // Owners first: what is looked at later can only have gone further.
        let vm = vms.vms.get_opt("goes").await?.is_some();
        let vmi = vms.vmis.get_opt("goes").await?.is_some();
        let pods = vms.launcher_pods("goes").await?.len();
        let over = match top {
            Top::Vm => !vm,
            Top::Vmi => !vmi,
        };
        let seen = format!("VM {vm}, VMI {vmi}, {pods} pods");
        Ok(if over { Look::Done((vmi, pods)) } else { Look::NotYet(seen) })
    })
    .await?;
    ensure!(left == (false, 0), "it went before what belongs to it: VMI {}, {} pods", left.0, left.1);
    println!("    gone after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// `--cascade=orphan`: the VM goes, its instance stays as it is, and is nobody's.
async fn orphaned(context: &Context, vms: &Vms) -> anyhow::Result<()> {
    vms.create("goes", "Always", None).await?;
    vms.wait_running("goes").await?;
    demo::first_tick(&context.cluster, vms, "goes").await?;
    let before = vms.incarnation("goes").await?;
    let recorder = Recorder::start(&context.cluster.client, &context.namespace, "goes");
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    vms.vms.delete("goes", &orphan).await?;
    wait::until("the VM to be gone", LIMIT, async || {
        wait::when(vms.vms.get_opt("goes").await?.is_none(), "it is there")
    })
    .await?;
    let heard = recorder.heard();
    wait::until("more ticks", LIMIT, async || {
        wait::when(recorder.heard() > heard + 30, format!("{} of them", recorder.heard() - heard))
    })
    .await?;
    let record = recorder.finish().await?;
    ensure!(record.dropped == 0, "its console was cut");
    let vmi = vms.vmis.get("goes").await?;
    let owners = vmi.metadata.owner_references.clone().unwrap_or_default();
    ensure!(owners.is_empty() && !vmi.is_deleting(), "{owners:?}");
    let after = vms.incarnation("goes").await?;
    ensure!(before == after, "{before:?} became {after:?}");
    vms.vmis.delete("goes", &DeleteParams::default()).await?;
    vms.wait_gone("goes").await
}

/// Flags of start, stop and restart: a dry run changes nothing, a forced restart doesn't wait for the guest.
pub async fn flags(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let namespace = context.namespace.as_str();
    vms.create("flags", "Halted", None).await?;
    vms.wait_printable("flags", PrintableStatus::Stopped).await?;
    let dry = async |action: &str| {
        let before = vms.vms.get("flags").await?.spec;
        let said = virtctl::said(&[action, "flags", "--dry-run", "-n", namespace]).await?;
        ensure!(said == format!("VM flags was scheduled to {action}"), "{said}");
        tokio::time::sleep(STILL).await;
        let after = vms.vms.get("flags").await?;
        let requests = after.status.unwrap_or_default().state_change_requests;
        ensure!(after.spec == before && requests.is_empty(), "{action}: {:?}, {requests:?}", after.spec);
        anyhow::Ok(())
    };
    dry("start").await?;
    ensure!(vms.vmis.get_opt("flags").await?.is_none(), "a dry run started it");
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 600}}}}));
    vms.vms.patch("flags", &PatchParams::default(), &patch).await?;
    virtctl::said(&["start", "flags", "-n", namespace]).await?;
    vms.wait_running("flags").await?;
    demo::first_tick(&context.cluster, &vms, "flags").await?;
    let before = vms.incarnation("flags").await?;
    dry("stop").await?;
    dry("restart").await?;
    ensure!(vms.incarnation("flags").await? == before, "a dry run did something");

    for (args, words) in [
        (&["restart", "flags", "--force"][..], "Must both use --force=true and set --grace-period."),
        (&["stop", "flags", "--grace-period", "1"], "Must both use --force=true and set --grace-period."),
        (&["restart", "flags", "--force", "--grace-period", "5"], "only gracePeriod=0 is supported"),
        (&["migrate", "nobody"], "\"nobody\" not found"),
        (&["migrate-cancel", "flags"], "Found no migration to cancel for flags"),
    ] {
        let args = [args, &["-n", namespace]].concat();
        let refused = virtctl::refused(&args).await?;
        ensure!(refused.contains(words), "{args:?}: {refused}");
    }
    let begun = Instant::now();
    virtctl::said(&["restart", "flags", "--force", "--grace-period", "0", "-n", namespace]).await?;
    wait::until("another instance", LIMIT, async || {
        let uid = vms.vmis.get_opt("flags").await?.map(|vmi| vmi.uid().to_owned()).unwrap_or_default();
        wait::when(!uid.is_empty() && uid != before.vmi_uid, uid)
    })
    .await?;
    println!("    restarted by force after {:.1} s", begun.elapsed().as_secs_f64());
    vms.wait_running("flags").await?;
    virtctl::said(&["stop", "flags", "-n", namespace]).await?;
    vms.wait_printable("flags", PrintableStatus::Stopped).await?;
    vms.delete("flags").await
}
