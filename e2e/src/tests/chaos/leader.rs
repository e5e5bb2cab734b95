//! A leader that nobody hears any more and that hears nobody stops before another begins; one that was frozen while
//! another began does nothing when it goes on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kubevirt_types::Release;

use super::lives::Lives;
use crate::leaders::LEASES;
use crate::node::{self, Node, Signal};
use crate::product::NAMESPACE;
use crate::suite::Context;
use crate::vm::{Vms, schedulable_nodes};
use crate::wait::{self, Look};
use crate::{audit, component_log};

/// A lease of 15 s runs out, and another tries every few seconds.
const TAKEN_OVER: Duration = Duration::from_secs(90);
/// After it is heard again the former leader would do what it has left over.
const AFTERWARDS: Duration = Duration::from_secs(20);
/// Twice the lease, and less than the 90 s after which the kubelet kills what doesn't answer its liveness probe.
const FROZEN: Duration = Duration::from_secs(30);

/// The leader of each lease is cut off while VMs come and go.
pub async fn isolated(context: Context) -> anyhow::Result<()> {
    beside_lives(&context, async || {
        for lease in LEASES {
            cut_off(&context, lease).await.with_context(|| lease)?;
        }
        Ok(())
    })
    .await
}

/// virt-controller's leader is paused for longer than its lease while VMs come and go, and goes on then.
pub async fn frozen(context: Context) -> anyhow::Result<()> {
    beside_lives(&context, async || freeze(&context, "virt-controller").await).await
}

async fn beside_lives(
    context: &Context,
    chaos: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ensure!(node::is_ours(), "this needs nodes that this machine reaches into");
    if context.product.settled().await?.as_ref() != Some(&Release::V0_18_0) {
        context.product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let node = schedulable_nodes(&context.cluster).await?.into_iter().next().context("no node")?;
    let work = tokio::task::LocalSet::new();
    work.run_until(async {
        let lives = Lives::start(&vms, node);
        let outcome = chaos().await;
        // What failed meanwhile waited for a leader; none is left over when the last has ended.
        let lived = lives.finish().await?;
        println!("    {} VMs came and went, {} of them not well", lived.lives, lived.failures.len());
        ensure!(lived.lives > lived.failures.len() as u64, "none came and went: {:?}", lived.failures);
        outcome
    })
    .await
}

/// Who leads, and since when.
async fn holder(context: &Context, lease: &str) -> anyhow::Result<(String, Option<Timestamp>)> {
    let leases: Api<Lease> = Api::namespaced(context.cluster.client.clone(), NAMESPACE);
    let spec = leases.get(lease).await?.spec.unwrap_or_default();
    Ok((spec.holder_identity.unwrap_or_default(), spec.acquire_time.map(|time| time.0)))
}

/// Waits until another leads; who, and since when.
async fn successor(context: &Context, lease: &str, leader: &str) -> anyhow::Result<(String, Timestamp)> {
    wait::until(format!("another than {leader} to lead"), TAKEN_OVER, async || {
        let (now, since) = holder(context, lease).await?;
        let other = !now.is_empty() && now != leader;
        Ok(match since {
            Some(since) if other => Look::Done((now, since)),
            _ => Look::NotYet(format!("{now} leads")),
        })
    })
    .await
}

fn node_of(pod: &Pod) -> anyhow::Result<Node> {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Ok(Node(name.context("the leader has no node")?))
}

/// What somebody wrote from a moment on, but for leases.
fn writes_of<'a>(writes: &'a [audit::Write], who: &str, from: Timestamp) -> Vec<&'a audit::Write> {
    writes.iter().filter(|one| one.by == who && one.at >= from && one.resource != "leases").collect()
}

/// The audit log has a request's time as the moment at which the API server had read its head. What lay in the kernel's
/// buffers when the process was stopped was sent by the kernel all the same, and is from long before the successor. What
/// was checked and not yet in the kernel's hands is sent when the process goes on, and would be found here: that takes a
/// stop within microseconds, or while a connection is made, and only the write's own precondition is against it.
async fn freeze(context: &Context, lease: &str) -> anyhow::Result<()> {
    let pods = context.product.all_pods();
    let (leader, _) = holder(context, lease).await?;
    let pod = pods.get(&leader).await.with_context(|| format!("the leader {leader:?}"))?;
    let node = node_of(&pod)?;
    let begun = Timestamp::now();
    node.signal(&leader, Signal::Stop).await?;
    let taken = successor(context, lease, &leader).await;
    let left = FROZEN.saturating_sub(Timestamp::now().duration_since(begun).unsigned_abs());
    tokio::time::sleep(left).await;
    let thawed = Timestamp::now();
    node.signal(&leader, Signal::Continue).await?;
    let (successor, since) = taken?;
    tokio::time::sleep(AFTERWARDS).await;
    let writes = audit::writes(audit::CONTROLLER, begun)?.context("the audit log of our own cluster")?;
    let late = writes_of(&writes, &leader, since);
    ensure!(late.is_empty(), "{leader} wrote when {successor} led since {since}: {late:?}");
    let (now, led_since) = holder(context, lease).await?;
    ensure!((&now, led_since) == (&successor, Some(since)), "{now} leads since {led_since:?}");
    let done = writes_of(&writes, &successor, since);
    let meanwhile = done.iter().filter(|write| write.at < thawed).count();
    ensure!(meanwhile > 0, "there was nothing to do while {leader} was frozen");
    let after = pods.get(&leader).await.with_context(|| format!("the former leader {leader:?}"))?;
    let seconds = |moment: Timestamp| moment.duration_since(begun).as_secs_f64();
    println!(
        "    {lease}: frozen at 0 s, another led at {:.1} s, went on at {:.1} s and wrote nothing; the other wrote {} times, \
         {meanwhile} of them before that; containers started again: {}",
        seconds(since),
        seconds(thawed),
        done.len(),
        restarts(&after) - restarts(&pod)
    );
    Ok(())
}

/// How often a pod's containers were started again. One that finds its lease lost and work that goes on ends.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

async fn cut_off(context: &Context, lease: &str) -> anyhow::Result<()> {
    let pods = context.product.all_pods();
    let (leader, _) = holder(context, lease).await?;
    let pod = pods.get(&leader).await.with_context(|| format!("the leader {leader:?}"))?;
    let node = node_of(&pod)?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the leader has no address")?;
    let begun = Timestamp::now();
    node.cut_off(&address).await?;
    let taken = successor(context, lease, &leader).await;
    node.mend(&address).await?;
    let (successor, since) = taken?;
    tokio::time::sleep(AFTERWARDS).await;
    let lines = component_log::of(&pods, &leader).await?;
    let said = |message: &str| {
        let line = lines.iter().find(|line| line.at >= begun && line.message.starts_with(message));
        line.map(|line| line.at).with_context(|| format!("{leader} did not say {message:?}"))
    };
    let (lost, stopped) = (said("lost the lease")?, said("the leader's work has stopped")?);
    ensure!(stopped <= since, "{leader} worked until {stopped}, {successor} led from {since}");
    let account = if lease == "virt-operator" { audit::OPERATOR } else { audit::CONTROLLER };
    let writes = audit::writes(account, begun)?.context("the audit log of our own cluster")?;
    let late = writes_of(&writes, &leader, since);
    ensure!(late.is_empty(), "{leader} wrote when {successor} led: {late:?}");
    let seconds = |moment: Timestamp| moment.duration_since(begun).as_secs_f64();
    println!(
        "    {lease}: cut off at 0 s, gave up at {:.1} s, its work had stopped at {:.1} s, another led at {:.1} s",
        seconds(lost),
        seconds(stopped),
        seconds(since)
    );
    Ok(())
}
