//! Who dies when: each component and each process of a migration killed with SIGKILL while a guest moves.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use kube::runtime::wait::await_condition;
use kubevirt_types::migration::MigrationPhase;
use kubevirt_types::{Release, VirtualMachineInstanceMigration, labels};
use serde_json::json;

use super::{one_launcher, ready};
use crate::demo;
use crate::migration::{MOVE_LIMIT, Migrations};
use crate::node::{Node, Signal};
use crate::product::{NAMESPACE, is_ready, restarts};
use crate::suite::Context;
use crate::ticks::{Recorder, in_order, summarize};
use crate::vm::Vms;
use crate::wait::{self, Look};

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    SourceHandler,
    TargetHandler,
    Controller,
    TargetQemu,
    TargetLauncher,
    SourceQemu,
    SourceLauncher,
}

/// What must become of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It moves, as if nothing had been.
    Moves,
    /// It goes on where it was.
    Stays,
    /// It is over, and says so; its VM starts another.
    Dies,
}

const VICTIMS: [Victim; 7] = [
    Victim::SourceHandler,
    Victim::TargetHandler,
    Victim::Controller,
    Victim::TargetQemu,
    Victim::TargetLauncher,
    Victim::SourceQemu,
    Victim::SourceLauncher,
];

const PHASES: [MigrationPhase; 6] = [
    MigrationPhase::Pending,
    MigrationPhase::Scheduling,
    MigrationPhase::Scheduled,
    MigrationPhase::PreparingTarget,
    MigrationPhase::TargetReady,
    MigrationPhase::Running,
];

/// Slow enough to be struck, fast enough for three dozen moves.
const BANDWIDTH: &str = "8Mi";

impl Victim {
    /// The first phase in which it is there to be killed.
    fn since(self) -> MigrationPhase {
        match self {
            Self::SourceHandler | Self::Controller | Self::SourceQemu | Self::SourceLauncher => {
                MigrationPhase::Pending
            }
            Self::TargetHandler | Self::TargetLauncher => MigrationPhase::Scheduling,
            Self::TargetQemu => MigrationPhase::TargetReady,
        }
    }

    /// What must become of the guest without it.
    fn fate(self) -> Fate {
        match self {
            Self::SourceHandler | Self::TargetHandler | Self::Controller => Fate::Moves,
            Self::TargetQemu | Self::TargetLauncher => Fate::Stays,
            Self::SourceQemu | Self::SourceLauncher => Fate::Dies,
        }
    }
}

/// Every row of the matrix; prints a table.
pub async fn kill_matrix(context: Context) -> anyhow::Result<()> {
    ensure!(crate::node::is_ours(), "killing needs nodes that this machine reaches into");
    ready(&context, &Release::V0_18_0).await?;
    let limits = json!({"configuration": {"migrations": {"bandwidthPerMigration": BANDWIDTH}}});
    context.product.patch_spec(limits).await?;
    let mut table = Vec::new();
    let mut failed = 0;
    let rows = VICTIMS.into_iter().flat_map(|victim| PHASES.map(|phase| (victim, phase)));
    for (victim, phase) in rows.filter(|(victim, phase)| phase.rank() >= victim.since().rank()) {
        let fate = victim.fate();
        let name = format!("{victim:?} at {phase:?}");
        if !context.wants(&name) {
            continue;
        }
        println!("  {name}: the guest {fate:?}");
        let begun = Instant::now();
        renew_the_killed(&context).await?;
        let line = match kill(&context, victim, phase, fate).await {
            Ok(said) => format!("ok      {said}"),
            Err(error) => {
                failed += 1;
                format!("FAILED  {error:#}")
            }
        };
        println!("    {line}");
        table.push(format!("  {name:<36} {fate:<6?} {:>5.0} s  {line}", begun.elapsed().as_secs_f64()));
    }
    context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
    println!("\n  who dies, when                       guest    took\n{}", table.join("\n"));
    ensure!(failed == 0, "{failed} of {} kills did what they must not", table.len());
    Ok(())
}

/// Replaces the pods in which somebody was killed: a kubelet waits longer and longer before it starts a container again
/// that ends again and again, up to 5 minutes, and a matrix isn't what it is meant for.
async fn renew_the_killed(context: &Context) -> anyhow::Result<()> {
    wait::until("virt-handlers and virt-controllers that were never killed", MOVE_LIMIT, async || {
        let mut waits = Vec::new();
        for component in ["virt-handler", "virt-controller"] {
            for pod in context.product.pods(component).await? {
                let leaves = pod.metadata.deletion_timestamp.is_some();
                if !leaves && restarts(&pod) > 0 {
                    context.product.all_pods().delete(&pod.name_any(), &DeleteParams::default()).await?;
                }
                if leaves || restarts(&pod) > 0 || !is_ready(&pod) {
                    waits.push(pod.name_any());
                }
            }
        }
        wait::when(waits.is_empty() && context.product.settled().await?.is_some(), format!("{waits:?}"))
    })
    .await
}

async fn kill(
    context: &Context,
    victim: Victim,
    phase: MigrationPhase,
    fate: Fate,
) -> anyhow::Result<String> {
    let vms = Vms::of(&context.cluster, &context.namespace);
    let migrations = Migrations::of(&context.cluster.client, &context.namespace);
    let vm = "victim";
    vms.create(vm, "Always", None).await?;
    let outcome = async {
        vms.wait_running(vm).await?;
        demo::first_tick(&context.cluster, &vms, vm).await?;
        let recorder = Recorder::start(&context.cluster.client, &context.namespace, vm);
        recorder.hears(10).await?;
        let before = vms.vmis.get(vm).await?;
        let migration = migrations.begin(vm).await?;
        let struck = strike(context, &vms, &migrations, (vm, &migration), victim, phase).await?;
        match fate {
            Fate::Moves => migrations.wait_phase(&migration, MigrationPhase::Succeeded).await?,
            Fate::Stays => migrations.wait_phase(&migration, MigrationPhase::Failed).await?,
            Fate::Dies => {
                wait::until("another instance", MOVE_LIMIT, async || {
                    let now = vms.vmis.get_opt(vm).await?;
                    let uid = now.as_ref().map(|vmi| vmi.uid().to_owned()).unwrap_or_default();
                    let status = now.and_then(|vmi| vmi.status).unwrap_or_default();
                    let how = format!("{:?}, {:?}", status.phase, status.migration_state);
                    wait::when(!uid.is_empty() && uid != before.uid(), how)
                })
                .await?;
                vms.wait_running(vm).await?;
                migrations.wait_phase(&migration, MigrationPhase::Failed).await?;
                recorder.finish().await?;
                return Ok(struck);
            }
        }
        recorder.hears(10).await?;
        one_launcher(&vms, vm).await?;
        let after = vms.vmis.get(vm).await?;
        ensure!(before.uid() == after.uid(), "it is another instance");
        let node =
            |vmi: &kubevirt_types::VirtualMachineInstance| vmi.status.clone().unwrap_or_default().node_name;
        let moved = node(&before) != node(&after);
        ensure!(moved == (fate == Fate::Moves), "it was on {:?} and is on {:?}", node(&before), node(&after));
        let record = recorder.finish().await?;
        let first = record.ticks.first().context("no tick")?.arrived;
        let summary = summarize(&record.ticks, first, Instant::now());
        in_order(&record.ticks)?;
        let gap = summary.longest_guest_gap_ms;
        Ok(format!("{struck}; guest's longest gap {gap} ms, console dropped {} times", record.dropped))
    }
    .await;
    vms.delete(vm).await?;
    outcome
}

/// Waits for the phase, or a later one if that was over at once, and kills. Returns what was done.
async fn strike(
    context: &Context,
    vms: &Vms,
    migrations: &Migrations,
    (vm, migration): (&str, &str),
    victim: Victim,
    wanted: MigrationPhase,
) -> anyhow::Result<String> {
    let reached = |object: Option<&VirtualMachineInstanceMigration>| {
        let phase = object.and_then(|m| m.status.as_ref()).map(|status| status.phase);
        phase.is_some_and(|phase| phase.rank() >= wanted.rank())
    };
    let found = await_condition(migrations.api.clone(), migration, reached);
    let found = tokio::time::timeout(MOVE_LIMIT, found).await.context("waiting for the phase")??;
    let seen = found.and_then(|m| m.status).unwrap_or_default().phase;
    ensure!(!seen.is_final(), "it was {seen:?} before anybody was killed");
    let (node, pod) = match victim {
        Victim::Controller => {
            let leases: Api<Lease> = Api::namespaced(context.cluster.client.clone(), NAMESPACE);
            let lease = leases.get("virt-controller").await?.spec.unwrap_or_default();
            let pod = lease.holder_identity.context("virt-controller has no leader")?;
            (node_of(&context.product.all_pods(), &pod).await?, pod)
        }
        Victim::SourceHandler => {
            let node = source_node(vms, vm).await?;
            let pod = context.product.handler_on(&node).await?.name_any();
            (node, pod)
        }
        Victim::TargetHandler => {
            let node = node_of(&vms.pods, &target_pod(vms, vm).await?).await?;
            let pod = context.product.handler_on(&node).await?.name_any();
            (node, pod)
        }
        Victim::SourceQemu | Victim::SourceLauncher => {
            let node = source_node(vms, vm).await?;
            let pods = vms.launcher_pods(vm).await?;
            let on = |pod: &&Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&node);
            let pod = pods.iter().find(on).context("no source pod")?.name_any();
            (node, pod)
        }
        Victim::TargetQemu | Victim::TargetLauncher => {
            let pod = target_pod(vms, vm).await?;
            (node_of(&vms.pods, &pod).await?, pod)
        }
    };
    let at = Node(node.clone());
    wait::until(format!("{victim:?} in {pod} to be there"), MOVE_LIMIT, async || {
        let killed = match victim {
            Victim::TargetQemu | Victim::SourceQemu => at.kill_qemu(&pod).await,
            Victim::SourceHandler
            | Victim::TargetHandler
            | Victim::Controller
            | Victim::TargetLauncher
            | Victim::SourceLauncher => at.signal(&pod, Signal::Kill).await,
        };
        Ok(match killed {
            Ok(()) => Look::Done(()),
            Err(absent) => Look::NotYet(format!("{absent:#}")),
        })
    })
    .await?;
    Ok(format!("killed {pod} on {node} at {seen:?}"))
}

async fn source_node(vms: &Vms, vm: &str) -> anyhow::Result<String> {
    vms.vmis.get(vm).await?.status.and_then(|status| status.node_name).context("it is nowhere")
}

async fn target_pod(vms: &Vms, vm: &str) -> anyhow::Result<String> {
    wait::until("the target pod on its node", MOVE_LIMIT, async || {
        let pods = vms.launcher_pods(vm).await?;
        let target = pods.iter().find(|pod| pod.labels().contains_key(labels::MIGRATION_UID));
        let node = target.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        Ok(match (target, node) {
            (Some(pod), Some(_)) => Look::Done(pod.name_any()),
            _ => Look::NotYet(format!("{} pods", pods.len())),
        })
    })
    .await
}

async fn node_of(pods: &Api<Pod>, pod: &str) -> anyhow::Result<String> {
    pods.get(pod).await?.spec.and_then(|spec| spec.node_name).with_context(|| format!("pod {pod} is nowhere"))
}
