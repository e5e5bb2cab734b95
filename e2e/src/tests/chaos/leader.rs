//! A leader that nobody hears any more and that hears nobody: it stops before another begins.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kubevirt_types::Release;

use super::lives::Lives;
use crate::leaders::LEASES;
use crate::node::{self, Node};
use crate::product::NAMESPACE;
use crate::suite::Context;
use crate::vm::{Vms, schedulable_nodes};
use crate::wait::{self, Look};
use crate::{audit, component_log};

/// A lease of 15 s runs out, and another tries every few seconds.
const TAKEN_OVER: Duration = Duration::from_secs(90);
/// After it is heard again the former leader would do what it has left over.
const AFTERWARDS: Duration = Duration::from_secs(20);

/// The leader of each lease is cut off while VMs come and go.
pub async fn isolated(context: Context) -> anyhow::Result<()> {
    ensure!(node::is_ours(), "cutting off needs nodes that this machine reaches into");
    if context.product.settled().await?.as_ref() != Some(&Release::V0_18_0) {
        context.product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let node = schedulable_nodes(&context.cluster).await?.into_iter().next().context("no node")?;
    let work = tokio::task::LocalSet::new();
    work.run_until(async {
        let lives = Lives::start(&vms, node);
        let mut outcome = Ok(());
        for lease in LEASES {
            outcome = cut_off(&context, lease).await.with_context(|| lease);
            if outcome.is_err() {
                break;
            }
        }
        // What failed meanwhile waited for a leader; none is left over when the last has ended.
        let lived = lives.finish().await?;
        println!("    {} VMs came and went, {} of them not well", lived.lives, lived.failures.len());
        ensure!(lived.lives > lived.failures.len() as u64, "none came and went: {:?}", lived.failures);
        outcome
    })
    .await
}

async fn cut_off(context: &Context, lease: &str) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(context.cluster.client.clone(), NAMESPACE);
    let pods = context.product.all_pods();
    let holder = async || -> anyhow::Result<(String, Option<Timestamp>)> {
        let spec = leases.get(lease).await?.spec.unwrap_or_default();
        Ok((spec.holder_identity.unwrap_or_default(), spec.acquire_time.map(|time| time.0)))
    };
    let (leader, _) = holder().await?;
    let pod = pods.get(&leader).await.with_context(|| format!("the leader {leader:?}"))?;
    let node = Node(pod.spec.and_then(|spec| spec.node_name).context("the leader has no node")?);
    let address = pod.status.and_then(|status| status.pod_ip).context("the leader has no address")?;
    let begun = Timestamp::now();
    node.cut_off(&address).await?;
    let successor = wait::until(format!("another than {leader} to lead"), TAKEN_OVER, async || {
        let (now, since) = holder().await?;
        let other = !now.is_empty() && now != leader;
        Ok(match since {
            Some(since) if other => Look::Done((now, since)),
            _ => Look::NotYet(format!("{now} leads")),
        })
    })
    .await;
    node.mend(&address).await?;
    let (successor, since) = successor?;
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
    let late: Vec<_> = writes
        .iter()
        .filter(|write| write.by == leader && write.at >= since && write.resource != "leases")
        .collect();
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
