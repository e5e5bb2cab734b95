//! How VMs end, and what their run strategy makes of it: each end is one that happens to people.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use kubevirt_types::Release;
use kubevirt_types::vm::PrintableStatus;

use crate::node::Node;
use crate::suite::Context;
use crate::vm::Vms;
use crate::{console, demo, virtctl, wait};

/// A guest ends within seconds; a machine under load takes longer.
const LIMIT: Duration = Duration::from_secs(180);

/// How a VM comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The guest powers itself off.
    Poweroff,
    /// QEMU is killed.
    QemuKilled,
    /// Somebody deletes the launcher pod.
    PodDeleted,
    /// `virtctl stop --force --grace-period 0`.
    ForcedStop,
}

/// What the run strategy makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Another instance runs.
    Again,
    /// No instance runs.
    Over,
}

const MATRIX: &[(&str, Ending, Then)] = &[
    ("Always", Ending::Poweroff, Then::Again),
    ("RerunOnFailure", Ending::Poweroff, Then::Over),
    ("RerunOnFailure", Ending::QemuKilled, Then::Again),
    ("Manual", Ending::QemuKilled, Then::Over),
    ("Always", Ending::PodDeleted, Then::Again),
    ("Always", Ending::ForcedStop, Then::Over),
];

/// Every row of the matrix.
pub async fn of_every_kind(context: Context) -> anyhow::Result<()> {
    prepare(&context).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    for (strategy, ending, then) in MATRIX {
        let name = format!("{strategy} {ending:?}");
        println!("  {name}: {then:?}");
        one(&context, &vms, strategy, *ending, *then).await.with_context(|| name)?;
    }
    Ok(())
}

/// A guest that reboots by itself, or is asked to by virtctl, stays the same instance, in the same QEMU.
pub async fn none_at_a_reboot(context: Context) -> anyhow::Result<()> {
    context.product.bring_to(&Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("reboots", "Always", None).await?;
    vms.wait_running("reboots").await?;
    demo::first_tick(&context.cluster, &vms, "reboots").await?;
    let before = vms.incarnation("reboots").await?;
    let mut socket = console::attach(&context.cluster.client, &context.namespace, "reboots").await?;
    console::type_line(&mut socket, "reboot").await?;
    let heard = console::until(&mut socket, "guest: ready", LIMIT).await?;
    // The button isn't listened to before the guest is up.
    let fresh = console::until(&mut socket, "tick 9 ", LIMIT).await;
    fresh.with_context(|| format!("it said {heard:?}"))?;
    let said = virtctl::said(&["soft-reboot", "reboots", "-n", &context.namespace]).await?;
    ensure!(said == "VMI reboots was scheduled to soft-reboot", "{said}");
    console::until(&mut socket, "guest: powering off", LIMIT).await?;
    console::until(&mut socket, "guest: ready", LIMIT).await?;
    console::until(&mut socket, "tick 0 ", LIMIT).await?;
    let after = vms.incarnation("reboots").await?;
    ensure!(before == after, "{before:?} became {after:?}");
    vms.delete("reboots").await
}

async fn prepare(context: &Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    Ok(())
}

async fn one(context: &Context, vms: &Vms, strategy: &str, ending: Ending, then: Then) -> anyhow::Result<()> {
    let vm = "ends";
    vms.create(vm, strategy, None).await?;
    if strategy == "Manual" {
        vms.wait_printable(vm, PrintableStatus::Stopped).await?;
        vms.subresource("virtualmachines", vm, "start").await?;
    }
    vms.wait_running(vm).await?;
    demo::first_tick(&context.cluster, vms, vm).await?;
    let before = vms.incarnation(vm).await?;
    match ending {
        Ending::Poweroff => {
            let mut socket = console::attach(&context.cluster.client, &context.namespace, vm).await?;
            console::type_line(&mut socket, "poweroff").await?;
        }
        Ending::QemuKilled => Node(before.node.clone()).kill_qemu(&before.pod).await?,
        Ending::PodDeleted => drop(vms.pods.delete(&before.pod, &DeleteParams::default()).await?),
        Ending::ForcedStop => {
            let namespace = context.namespace.as_str();
            let args = ["stop", vm, "-n", namespace, "--force", "--grace-period", "0"];
            let said = virtctl::said(&args).await?;
            ensure!(said == "VM ends was scheduled to stop", "{said}");
        }
    }
    wait::until("the end of this instance", LIMIT, async || {
        let now = vms.vmis.get_opt(vm).await?;
        let over = now.as_ref().is_none_or(|vmi| {
            let phase = vmi.status.clone().unwrap_or_default().phase;
            vmi.uid() != before.vmi_uid || phase.is_final()
        });
        wait::when(over, format!("{:?}", now.and_then(|vmi| vmi.status).map(|status| status.phase)))
    })
    .await?;
    match then {
        Then::Again => {
            wait::until("another instance", LIMIT, async || {
                let uid = vms.vmis.get_opt(vm).await?.map(|vmi| vmi.uid().to_owned()).unwrap_or_default();
                wait::when(!uid.is_empty() && uid != before.vmi_uid, uid)
            })
            .await?;
            vms.wait_running(vm).await?;
            let pods = vms.launcher_pods(vm).await?;
            let mine = |pod: &&k8s_openapi::api::core::v1::Pod| {
                pod.owner_references().iter().any(|owner| owner.uid == before.vmi_uid)
            };
            ensure!(pods.iter().filter(mine).all(|pod| pod.name_any() == before.pod), "too many launchers");
        }
        Then::Over => {
            vms.wait_printable(vm, PrintableStatus::Stopped).await?;
            let vmi = vms.vmis.get_opt(vm).await?;
            let alive = vmi.filter(|vmi| !vmi.status.clone().unwrap_or_default().phase.is_final());
            ensure!(alive.is_none(), "{alive:?}");
        }
    }
    vms.delete(vm).await
}
