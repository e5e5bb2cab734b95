//! Nodes that can't take part in an update: their kubelet stopped, or cordoned.

use std::time::Duration;

use anyhow::Context as _;
use kube::ResourceExt;
use kubevirt_types::condition::is_true;

use super::Row;
use super::world::{Measure, Measured, NEW, World};
use crate::coverage::{least, tried_on, uncovered};
use crate::node::{self, Node};
use crate::product::{UPDATE_LIMIT, how_it_stands, is_of, is_ready};
use crate::wait::{self, Look};
use crate::{event, virtctl};

/// The update has to end without the node before its pods would be evicted, 300 s after it became NotReady: 50 s until
/// then, 60 s until it is lost, and the update of the others.
const WITHOUT: Duration = Duration::from_secs(280);
/// For the node to be Ready, to get its pods and to end the old ones.
const RETURN: Duration = Duration::from_secs(240);

/// Whose kubelet stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The node on which the new virt-handler is tried.
    Canary,
    /// Another one.
    Other,
}

/// The kubelet stops on the node on which the new virt-handler is tried.
pub async fn canary_lost(world: &World) -> anyhow::Result<Row> {
    kubelet_stopped(world, Victim::Canary).await
}

/// The kubelet stops on a node whose turn has not come.
pub async fn other_lost(world: &World) -> anyhow::Result<Row> {
    kubelet_stopped(world, Victim::Other).await
}

async fn kubelet_stopped(world: &World, which: Victim) -> anyhow::Result<Row> {
    if !node::is_ours() {
        return Ok(Row {
            detail: "not tried: this machine has no access to the nodes".into(),
            ..Row::default()
        });
    }
    world.bring_back().await?;
    let measure = world.measure().await?;
    let mut row = Row::default();
    let mut victim = None;
    let lost = lose(world, &measure, which, &mut victim, &mut row).await;
    let returned = match &victim {
        Some(victim) => come_back(world, victim, &mut row).await,
        None => Ok(()),
    };
    let measured = measure.finish(world).await?;
    row.complaints.extend([lost, returned].into_iter().filter_map(Result::err).map(|e| format!("{e:#}")));
    let lost: Vec<String> = victim.iter().map(|node| node.0.clone()).collect();
    judge(world, measured, &lost, &mut row);
    Ok(row)
}

/// Begins the update, stops the kubelet in the middle, and waits until the update is over without the node.
async fn lose(
    world: &World,
    measure: &Measure,
    which: Victim,
    victim: &mut Option<Node>,
    row: &mut Row,
) -> anyhow::Result<()> {
    let old = world.templates().await?;
    world.product.set_tag(&NEW.to_string()).await?;
    let canary = wait::until("the first new virt-handler", UPDATE_LIMIT, async || {
        let is_new = |seen: &crate::coverage::Seen| {
            seen.component == "virt-handler"
                && old.get("virt-handler").is_some_and(|old| !old.contains(&seen.template))
        };
        let nodes = tried_on(&measure.coverage.so_far(), is_new);
        Ok(nodes.into_iter().next().map_or(Look::NotYet("none yet".into()), Look::Done))
    })
    .await?;
    let chosen = world.nodes.iter().find(|node| (node.0 == canary) == (which == Victim::Canary));
    let chosen = chosen.context("there are two nodes")?;
    *victim = Some(chosen.clone());
    chosen.stop_kubelet().await?;
    let stopped = measure.seconds();
    wait::until("the update to end without the node", WITHOUT, async || {
        let object = world.product.object().await?.context("there is no KubeVirt object")?;
        let status = object.status.clone().unwrap_or_default();
        let says = |text: &str| text.contains(&chosen.0) && text.contains("NotReady");
        if row.named.is_none() {
            let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded");
            let message = degraded.and_then(|condition| condition.message.clone()).unwrap_or_default();
            let warned = event::warnings(&world.cluster.client, measure.at).await?;
            if says(&message) && warned.iter().any(|said| says(&said.note)) {
                let said = virtctl::explain().await?;
                row.detail = said.lines().find(|line| says(line)).unwrap_or_default().to_owned();
                row.named = (!row.detail.is_empty()).then(|| measure.seconds() - stopped);
            }
        }
        let behind = behind(world, Some(chosen)).await?;
        let over = status.observed_kube_virt_version == Some(NEW.to_string())
            && !is_true(&status.conditions, "Progressing");
        wait::when(
            over && behind.is_empty() && row.named.is_some(),
            format!("named {:?}, behind: {}; {}", row.named, behind.join(", "), how_it_stands(&object)),
        )
    })
    .await?;
    row.detail = format!("{} (over without it after {:.0} s)", row.detail, measure.seconds() - stopped);
    Ok(())
}

/// Starts the kubelet whatever has happened, and waits until its node has what the others have.
async fn come_back(world: &World, victim: &Node, row: &mut Row) -> anyhow::Result<()> {
    victim.start_kubelet().await?;
    let started = std::time::Instant::now();
    wait::until("the node to be finished", RETURN, async || {
        let behind = behind(world, None).await?;
        let object = world.product.object().await?.context("there is no KubeVirt object")?;
        wait::when(
            behind.is_empty() && world.product.settled().await? == Some(NEW),
            format!("behind: {}; {}", behind.join(", "), how_it_stands(&object)),
        )
    })
    .await?;
    row.back = Some(started.elapsed().as_secs_f64());
    Ok(())
}

/// Who is not of the new release yet; what is on one node may not count.
async fn behind(world: &World, without: Option<&Node>) -> anyhow::Result<Vec<String>> {
    let mut behind = Vec::new();
    let handlers = world.product.pods("virt-handler").await?;
    for node in world.nodes.iter().filter(|node| Some(*node) != without) {
        let here = |pod: &&k8s_openapi::api::core::v1::Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&node.0)
        };
        if !handlers.iter().filter(here).any(|pod| is_ready(pod) && is_of(pod, &NEW)) {
            behind.push(format!("virt-handler on {}", node.0));
        }
    }
    for component in ["virt-controller", "virt-api"] {
        let pods = world.product.pods(component).await?;
        let live: Vec<_> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        if live.iter().filter(|pod| is_ready(pod) && is_of(pod, &NEW)).count() < 2 {
            let names: Vec<String> = live.iter().map(|pod| pod.name_any()).collect();
            behind.push(format!("{component} ({})", names.join(", ")));
        }
    }
    Ok(behind)
}

fn judge(world: &World, measured: Measured, lost: &[String], row: &mut Row) {
    let nodes = uncovered(&measured.changes, &world.node_names(), |_| false);
    row.affected = nodes.len();
    row.complaints.extend(measured.complaints(&nodes));
    if nodes.iter().any(|node| !lost.contains(node)) {
        row.complaints.push(format!("without a virt-handler: {nodes:?}, lost is {lost:?}"));
    }
    let floor = if lost.is_empty() { 2 } else { 1 };
    for component in ["virt-controller", "virt-api"] {
        let least = least(&measured.changes, component, |_| false);
        if least < floor {
            row.complaints.push(format!("{component}: {least} replicas at some time"));
        }
    }
    row.detail = format!("{} ({})", row.detail, measured.summary);
}

/// A node to which no pod may come: virt-handler's comes all the same, and the others go elsewhere.
pub async fn cordoned(world: &World) -> anyhow::Result<Row> {
    world.bring_back().await?;
    let node = world.nodes.last().context("there are two nodes")?;
    let measure = world.measure().await?;
    node.cordon(&world.cluster.client, true).await?;
    let updated = async {
        world.product.set_tag(&NEW.to_string()).await?;
        world.product.wait_for(&NEW).await?;
        let behind = behind(world, None).await?;
        anyhow::ensure!(behind.is_empty(), "behind: {}", behind.join(", "));
        Ok(measure.seconds())
    }
    .await;
    node.cordon(&world.cluster.client, false).await?;
    let measured = measure.finish(world).await?;
    let mut row = Row { detail: format!("{} was cordoned", node.0), ..Row::default() };
    match updated {
        Ok(seconds) => row.back = Some(seconds),
        Err(error) => row.complaints.push(format!("{error:#}")),
    }
    judge(world, measured, &[], &mut row);
    Ok(row)
}
