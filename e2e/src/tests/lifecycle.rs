//! VMs as their owners use them.

use anyhow::{Context as _, ensure};
use kube::api::PostParams;
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VirtualMachine};
use serde_json::{Value, json};

use crate::demo::first_tick;
use crate::suite::Context;
use crate::vm::{Vms, tick_vm};
use crate::{console, wait};

/// Start, console, restart, stop, by request and by run strategy.
pub async fn run_strategies(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("manual", "Manual", None).await?;
    vms.wait_printable("manual", PrintableStatus::Stopped).await?;
    vms.subresource("virtualmachines", "manual", "start").await?;
    vms.wait_running("manual").await?;
    vms.wait_printable("manual", PrintableStatus::Running).await?;
    first_tick(&context.cluster, &vms, "manual").await?;
    answers(&context, "manual").await?;

    let again = vms.subresource("virtualmachines", "manual", "start").await;
    let message = again.err().context("a running VM was started again")?.to_string();
    ensure!(message.contains("VM is already running"), "{message}");

    let before = vms.incarnation("manual").await?;
    vms.subresource("virtualmachines", "manual", "restart").await?;
    wait::until("another instance", std::time::Duration::from_secs(180), async || {
        let vmi = vms.vmis.get_opt("manual").await?;
        let uid = vmi.map(|vmi| vmi.uid().to_owned()).unwrap_or_default();
        wait::when(!uid.is_empty() && uid != before.vmi_uid, uid)
    })
    .await?;
    vms.wait_running("manual").await?;
    vms.subresource("virtualmachines", "manual", "stop").await?;
    vms.wait_printable("manual", PrintableStatus::Stopped).await?;

    vms.create("always", "Always", None).await?;
    vms.wait_running("always").await?;
    let vmi = vms.vmis.get("always").await?;
    let status = vmi.status.context("status")?;
    ensure!(status.interfaces.first().is_some_and(|i| i.ip_address.is_some()), "{:?}", status.interfaces);
    ensure!(status.node_name.is_some() && status.active_pods.len() == 1, "{status:?}");
    vms.delete("always").await?;
    vms.delete("manual").await
}

/// What is typed on the console comes back from the guest.
async fn answers(context: &Context, name: &str) -> anyhow::Result<()> {
    let mut socket = console::attach(&context.cluster.client, &context.namespace, name).await?;
    console::type_line(&mut socket, "who is there").await?;
    let limit = std::time::Duration::from_secs(60);
    console::until(&mut socket, "echo: who is there", limit).await.map(drop)
}

/// Each refusal names the field, the value and what is allowed, and nothing is stored.
pub async fn what_does_not_work_is_refused(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let spec = "/spec/template/spec";
    let cases: [(&str, Value, &[&str]); 5] = [
        (
            "/volumes",
            json!([{"name": "a", "persistentVolumeClaim": {"claimName": "x"}}]),
            &["volumes[0].persistentVolumeClaim", "emptyDisk"],
        ),
        ("/domain/memory", json!({"guest": "0"}), &["domain.memory.guest"]),
        ("/domain/firmware/kernelBoot/container/kernelPath", json!("vmlinuz"), &["kernelPath", "absolute"]),
        ("/domain/devices/disks", json!([{"name": "ghost", "disk": {}}]), &["disks[0].name", "ghost"]),
        ("/terminationGracePeriodSeconds", json!(-1), &["terminationGracePeriodSeconds", "-1"]),
    ];
    for (field, value, expected) in cases {
        let mut object = tick_vm("refused", "Halted", None);
        let (parent, name) = field.rsplit_once('/').context("a field")?;
        object.pointer_mut(&format!("{spec}{parent}")).context("the parent")?[name] = value;
        let vm: VirtualMachine = serde_json::from_value(object)?;
        refused(&vms, &vm, expected).await.with_context(|| field.to_owned())?;
    }
    let mut both = tick_vm("refused", "Halted", None);
    both["spec"]["running"] = json!(true);
    refused(&vms, &serde_json::from_value(both)?, &["mutually exclusive"]).await?;
    ensure!(vms.vms.get_opt("refused").await?.is_none(), "a refused VM was stored");
    Ok(())
}

async fn refused(vms: &Vms, vm: &VirtualMachine, expected: &[&str]) -> anyhow::Result<()> {
    match vms.vms.create(&PostParams::default(), vm).await {
        Ok(_) => anyhow::bail!("was accepted"),
        Err(kube::Error::Api(status)) => {
            ensure!(status.code == 422 || status.code == 400, "code {}: {}", status.code, status.message);
            for part in expected {
                ensure!(status.message.contains(part), "{part:?} is not in {:?}", status.message);
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
