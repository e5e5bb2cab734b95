//! A node that falls silent, is given up, and comes back: at no time are there two guests of one VM that run by the
//! cluster's will, and the VM is there again as soon as the old guest has certainly ended.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Event, Node as ApiNode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VmiPhase, labels};
use serde_json::json;

use crate::node::{self, Node};
use crate::suite::Context;
use crate::vm::{Incarnation, Vms, schedulable_nodes, tick_vm};
use crate::{demo, wait};

/// 40 s until the node is called not ready, and the heartbeat's 100 s.
const SILENT: Duration = Duration::from_secs(200);
/// How long nothing may happen while the node is only silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The garbage collector looks each 20 s, and believes that a node is gone after 40 s.
const COLLECTED: Duration = Duration::from_secs(180);
/// For the kubelet to see that its pods are nobody's, and the guest's grace.
const ENDED: Duration = Duration::from_secs(120);
/// For a node to have all its pods again.
const RETURNED: Duration = Duration::from_secs(300);

/// A worker is frozen; a minute later its node is deleted; then it comes back.
pub async fn silent_then_gone(context: Context) -> anyhow::Result<()> {
    if !ready(&context).await? {
        return Ok(());
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("lost", "Always", None).await?;
    vms.wait_running("lost").await?;
    demo::first_tick(&context.cluster, &vms, "lost").await?;
    let before = vms.incarnation("lost").await?;
    let lost = Lost::of(&context, &before.node).await?;
    lost.node.freeze().await?;
    let story = silent(&context, &vms, &before, &lost).await;
    // Whatever was seen, the next test finds the node as it was.
    let returned = lost.come_back(&context).await;
    story?;
    returned?;
    no_second_guest(&vms, &before, &lost).await?;
    vms.delete("lost").await
}

/// How long a guest runs on that doesn't hear the power button.
const DEAF: Duration = Duration::from_secs(20);

/// Somebody deletes the node's object, and the machine is well: its guest has its time, and only then another is started.
pub async fn deleted_while_well(context: Context) -> anyhow::Result<()> {
    if !ready(&context).await? {
        return Ok(());
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let mut vm = tick_vm("lost", "Always", None);
    let spec = &mut vm["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(DEAF.as_secs());
    spec["domain"]["firmware"]["kernelBoot"]["kernelArgs"] = json!("console=ttyS0 quiet acpi=off");
    vms.vms.create(&PostParams::default(), &serde_json::from_value(vm)?).await?;
    vms.wait_running("lost").await?;
    demo::first_tick(&context.cluster, &vms, "lost").await?;
    let before = vms.incarnation("lost").await?;
    let lost = Lost { frozen: false, ..Lost::of(&context, &before.node).await? };
    let story = deleted(&context, &vms, &before, &lost).await;
    let returned = lost.come_back(&context).await;
    story?;
    returned?;
    no_second_guest(&vms, &before, &lost).await?;
    vms.delete("lost").await
}

/// The node is deleted; whenever there is another instance, the old guest isn't.
async fn deleted(context: &Context, vms: &Vms, before: &Incarnation, lost: &Lost) -> anyhow::Result<()> {
    ensure!(lost.node.runs(&before.pod).await?, "{} has no process on {}", before.pod, before.node);
    lost.nodes.delete(&lost.node.0, &DeleteParams::default()).await?;
    let deleted = Instant::now();
    wait::until("another instance", COLLECTED, async || {
        let vmi = vms.vmis.get_opt("lost").await?;
        let seen = vmi.as_ref().map(|vmi| {
            let status = vmi.status.clone().unwrap_or_default();
            (vmi.uid().to_owned(), status.phase, status.reason)
        });
        let another = seen.as_ref().is_some_and(|(uid, ..)| *uid != before.vmi_uid);
        ensure!(!another || !lost.node.runs(&before.pod).await?, "another instance, and the old guest runs");
        wait::when(another, format!("{seen:?}"))
    })
    .await?;
    vms.wait_running("lost").await?;
    demo::first_tick(&context.cluster, vms, "lost").await?;
    let after = vms.incarnation("lost").await?;
    ensure!(after.node != before.node, "it runs on {} again", after.node);
    println!(
        "    ticks on {} {:.0} s after its node was deleted, the old guest had ended before",
        after.node,
        deleted.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Whether a node can be taken away: it is in reach, and there is another one.
async fn ready(context: &Context) -> anyhow::Result<bool> {
    if !node::is_ours() {
        println!("    not tried: this machine has no access to the nodes");
        return Ok(false);
    }
    context.product.bring_to(&Release::V0_18_0).await?;
    let nodes = schedulable_nodes(&context.cluster).await?;
    ensure!(nodes.len() >= 2, "losing a node needs another one, there are {nodes:?}");
    Ok(true)
}

/// The node and what its object was.
struct Lost {
    node: Node,
    /// Whether it has to be thawed.
    frozen: bool,
    object: ApiNode,
    nodes: Api<ApiNode>,
}

impl Lost {
    async fn of(context: &Context, name: &str) -> anyhow::Result<Self> {
        let nodes: Api<ApiNode> = Api::all(context.cluster.client.clone());
        let object = nodes.get(name).await?;
        Ok(Self { node: Node(name.to_owned()), frozen: true, object, nodes })
    }

    /// The object as a new one: with its labels and its address range, without the taints of its silence.
    fn anew(&self) -> ApiNode {
        let old = self.object.clone();
        ApiNode {
            metadata: ObjectMeta {
                name: old.metadata.name,
                labels: old.metadata.labels,
                annotations: old.metadata.annotations,
                ..ObjectMeta::default()
            },
            spec: old.spec,
            status: None,
        }
    }

    /// Gives the cluster its node back and waits until it has what it had.
    async fn come_back(&self, context: &Context) -> anyhow::Result<()> {
        // A kubelet that finds no node of its name makes one only when it starts.
        if self.nodes.get_opt(&self.node.0).await?.is_none() {
            self.nodes.create(&PostParams::default(), &self.anew()).await.context("making the node again")?;
        }
        if self.frozen {
            self.node.thaw().await?;
        }
        let begun = Instant::now();
        wait::until("the node to be as it was", RETURNED, async || {
            let node = self.nodes.get(&self.node.0).await?;
            let differs = self.differs(&node);
            let schedulable = schedulable_nodes(&context.cluster).await?.contains(&self.node.0);
            let handlers = context.product.pods("virt-handler").await?;
            let handled = handlers.iter().any(|pod| {
                crate::product::is_ready(pod)
                    && pod.metadata.deletion_timestamp.is_none()
                    && pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&self.node.0)
            });
            let settled = context.product.settled().await?.is_some();
            wait::when(
                differs.is_none() && schedulable && handled && settled,
                format!("{differs:?}, schedulable {schedulable}, handler {handled}, settled {settled}"),
            )
        })
        .await?;
        println!("    the node was as before {:.0} s after it went on", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// What of the node isn't as it was.
    fn differs(&self, now: &ApiNode) -> Option<String> {
        let (old, new) = (self.object.clone(), now.clone());
        let (old_spec, new_spec) = (old.spec.unwrap_or_default(), new.spec.unwrap_or_default());
        let missing: Vec<_> = old
            .metadata
            .labels
            .iter()
            .flatten()
            .filter(|(key, value)| now.labels().get(*key) != Some(*value))
            .collect();
        if kubevirt_types::gate::not_ready_since(now).is_some() {
            Some("it isn't ready".to_owned())
        } else if !missing.is_empty() {
            Some(format!("labels {missing:?}"))
        } else if old_spec.taints != new_spec.taints || old_spec.pod_cidr != new_spec.pod_cidr {
            Some(format!("taints {:?}, pods' range {:?}", new_spec.taints, new_spec.pod_cidr))
        } else {
            None
        }
    }
}

/// The node is silent, then deleted.
async fn silent(context: &Context, vms: &Vms, before: &Incarnation, lost: &Lost) -> anyhow::Result<()> {
    let frozen = Instant::now();
    wait::until("the instance to be not heard of", SILENT, async || {
        let status = vms.vmis.get("lost").await?.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").cloned();
        let reason = ready.as_ref().and_then(|ready| ready.reason.clone()).unwrap_or_default();
        wait::when(reason == "NodeUnresponsive", format!("{:?}, {ready:?}", status.phase))
    })
    .await?;
    println!("    said to be unresponsive after {:.0} s", frozen.elapsed().as_secs_f64());
    let patient = Instant::now();
    while patient.elapsed() < PATIENCE {
        let vmi = vms.vmis.get("lost").await?;
        let phase = vmi.status.clone().unwrap_or_default().phase;
        ensure!(phase == VmiPhase::Running && vmi.uid() == before.vmi_uid, "{} is {phase:?}", vmi.uid());
        let pods = vms.launcher_pods("lost").await?;
        ensure!(pods.len() == 1, "{} launchers while the node is only silent", pods.len());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let vm = vms.vms.get("lost").await?.status.unwrap_or_default();
    ensure!(vm.printable_status == Some(PrintableStatus::Running), "{:?}", vm.printable_status);
    ensure!(vm.ready == Some(false), "the VM is called ready");
    told(context).await?;

    lost.nodes.delete(&lost.node.0, &DeleteParams::default()).await?;
    let deleted = Instant::now();
    wait::until("another instance", COLLECTED, async || {
        let vmi = vms.vmis.get_opt("lost").await?;
        let seen = vmi.as_ref().map(|vmi| {
            let status = vmi.status.clone().unwrap_or_default();
            (vmi.uid().to_owned(), status.phase, status.reason)
        });
        wait::when(seen.as_ref().is_some_and(|(uid, ..)| *uid != before.vmi_uid), format!("{seen:?}"))
    })
    .await?;
    vms.wait_running("lost").await?;
    demo::first_tick(&context.cluster, vms, "lost").await?;
    let after = vms.incarnation("lost").await?;
    ensure!(after.node != before.node, "it runs on {} again", after.node);
    println!(
        "    ticks on {} {:.0} s after its node was deleted",
        after.node,
        deleted.elapsed().as_secs_f64()
    );
    Ok(())
}

/// One event says what is known of the guest.
async fn told(context: &Context) -> anyhow::Result<()> {
    let events: Api<Event> = Api::namespaced(context.cluster.client.clone(), &context.namespace);
    let about = ListParams::default().fields("reason=NodeUnresponsive");
    let said = events.list(&about).await?.items;
    let notes: Vec<_> = said.iter().map(|event| event.message.clone().unwrap_or_default()).collect();
    ensure!(notes.len() == 1 && notes[0].contains("no other is started"), "{notes:?}");
    // The same event again is counted, not another one.
    ensure!(said[0].series.is_none(), "it was said again and again: {:?}", said[0].series);
    Ok(())
}

/// Nothing of the old guest is left on its node, and the new one has gone on.
async fn no_second_guest(vms: &Vms, before: &Incarnation, lost: &Lost) -> anyhow::Result<()> {
    let begun = Instant::now();
    wait::until("the old guest to end", ENDED, async || {
        wait::when(!lost.node.runs(&before.pod).await?, format!("{} runs on {}", before.pod, before.node))
    })
    .await?;
    println!(
        "    the old guest was gone {:.0} s after the node was as before",
        begun.elapsed().as_secs_f64()
    );
    let pods = vms.launcher_pods("lost").await?;
    let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
    ensure!(names.len() == 1 && names[0] != before.pod, "{names:?}");
    let vmi = vms.vmis.get("lost").await?;
    let status = vmi.status.unwrap_or_default();
    let node = vmi.metadata.labels.as_ref().and_then(|all| all.get(labels::NODE_NAME)).cloned();
    ensure!(status.phase == VmiPhase::Running && node == status.node_name, "{:?} on {node:?}", status.phase);
    Ok(())
}
