//! virt-operator itself in trouble while it updates: killed at every stage, paused, its lease stolen.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::Row;
use super::world::{Measured, NEW, OLD, World};
use crate::coverage::{least, uncovered};
use crate::node::{self, Node, Signal};
use crate::observer::{Observer, UPDATE_ORDER, order, order_complaint};
use crate::product::{NAMESPACE, how_it_stands};
use crate::wait::{self, Look};
use crate::{audit, event};

/// The operator's lease.
const LEASE: &str = "virt-operator";
/// Every kill may cost the whole lease of 15 s and a start.
const LIMIT: Duration = Duration::from_secs(900);
/// A lease that isn't renewed is taken within 15 s, and some.
const TAKEN_OVER: Duration = Duration::from_secs(60);
/// Stages that last, so that a kill at each of them is certain to hit in one update.
const LASTING: [&str; 3] = ["Handlers", "Controllers", "Api"];
/// How often it is looked whether the update is over.
const LOOK: Duration = Duration::from_secs(1);

/// A leader goes on while it is being killed: what it has announced until then is not killed at, and is another round's.
const ROUNDS: usize = 4;

/// The leader is killed each time when the update comes to another stage, in as many updates as it takes.
pub async fn killed_at_every_stage(world: &World) -> anyhow::Result<Row> {
    let mut row = Row::default();
    // an operator that announces nothing has missed these
    let mut kills = Kills { announced: LASTING.map(str::to_owned).into(), ..Kills::default() };
    for _ in 0..ROUNDS {
        let round = killed(world, None, None, &mut kills).await?;
        row = Row { complaints: [row.complaints, round.complaints].concat(), ..round };
        if kills.missed().is_empty() || !row.complaints.is_empty() {
            break;
        }
    }
    if !kills.missed().is_empty() {
        row.complaints.push(format!("never killed at {:?}", kills.missed()));
    }
    Ok(row)
}

/// The leader is killed three times, while a node is cordoned.
pub async fn killed_thrice(world: &World) -> anyhow::Result<Row> {
    let mut kills = Kills::default();
    let mut row = killed(world, Some(&LASTING), world.nodes.last(), &mut kills).await?;
    let missed: Vec<&&str> =
        LASTING.iter().filter(|stage| !kills.at.contains(&(**stage).to_owned())).collect();
    if !missed.is_empty() {
        row.complaints.push(format!("never killed at {missed:?}"));
    }
    Ok(row)
}

/// Where leaders were killed.
#[derive(Default)]
struct Kills {
    /// Stages that somebody announced.
    announced: BTreeSet<String>,
    /// Stages at which somebody was killed, in their order.
    at: Vec<String>,
}

impl Kills {
    fn missed(&self) -> Vec<&String> {
        self.announced.iter().filter(|stage| !self.at.contains(stage)).collect()
    }
}

async fn killed(
    world: &World,
    at: Option<&[&str]>,
    cordoned: Option<&Node>,
    kills: &mut Kills,
) -> anyhow::Result<Row> {
    world.bring_back().await?;
    let client = &world.cluster.client;
    let measure = world.measure().await?;
    let observer = Observer::start(client);
    if let Some(node) = cordoned {
        node.cordon(client, true).await?;
    }
    let updated = update_and_kill(world, at, measure.at, kills).await;
    if let Some(node) = cordoned {
        node.cordon(client, false).await?;
    }
    let took = measure.seconds();
    let whole = world.product.wait_for_operator(&OLD).await;
    let begun = measure.at;
    let measured = measure.finish(world).await?;
    let mut row = Row { back: Some(took), ..Row::default() };
    row.complaints.extend([updated, whole].into_iter().filter_map(Result::err).map(|e| format!("{e:#}")));
    row.detail = format!("killed {} times, at {}", kills.at.len(), kills.at.join(", "));
    let stories = observer.finish().await?;
    row.complaints.extend(order_complaint(&order(&stories, &NEW, begun)));
    judge(world, measured, begun, &mut row).await?;
    Ok(row)
}

/// Follows the stages to the end, and kills who announces one that has not been killed at.
async fn update_and_kill(
    world: &World,
    at: Option<&[&str]>,
    since: Timestamp,
    kills: &mut Kills,
) -> anyhow::Result<()> {
    let mut stages = event::stages(&world.cluster.client, since);
    let mut dead = BTreeSet::new();
    let limit = tokio::time::Instant::now() + LIMIT;
    world.product.set_tag(&NEW.to_string()).await?;
    loop {
        ensure!(
            tokio::time::Instant::now() < limit,
            "not updated after {} s: {:?}",
            LIMIT.as_secs(),
            kills.at
        );
        let said = tokio::select! {
            said = stages.next() => said.context("the watch of events ended")?,
            () = tokio::time::sleep(LOOK) => {
                if world.product.settled().await? == Some(NEW) {
                    return Ok(());
                }
                continue;
            }
        };
        if !said.note.contains("updating to") {
            continue;
        }
        kills.announced.insert(said.reason.clone());
        let wanted = at.is_none_or(|stages| stages.contains(&said.reason.as_str()));
        if wanted && !dead.contains(&said.by) && !kills.at.contains(&said.reason) {
            kill(world, &said.by).await?;
            println!("    killed {} at {}", said.by, said.reason);
            dead.insert(said.by);
            kills.at.push(said.reason);
        }
    }
}

/// Ends a replica without a word: where this machine reaches into nodes with SIGKILL, so that it can't give its lease
/// back. Its pod goes too, so that another comes at once.
async fn kill(world: &World, name: &str) -> anyhow::Result<()> {
    if node::is_ours() {
        node_of(world, name).await?.signal(name, Signal::Kill).await?;
    }
    let pods: Api<Pod> = Api::namespaced(world.cluster.client.clone(), NAMESPACE);
    pods.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    Ok(())
}

async fn node_of(world: &World, name: &str) -> anyhow::Result<Node> {
    let pods: Api<Pod> = Api::namespaced(world.cluster.client.clone(), NAMESPACE);
    let node = pods.get(name).await?.spec.and_then(|spec| spec.node_name);
    Ok(Node(node.with_context(|| format!("pod {name} has a node"))?))
}

/// What every update must keep whatever happens to the operator.
async fn judge(world: &World, measured: Measured, begun: Timestamp, row: &mut Row) -> anyhow::Result<()> {
    let nodes = uncovered(&measured.changes, &world.node_names(), |_| false);
    row.complaints.extend(measured.complaints(&nodes));
    row.affected = nodes.len();
    if !nodes.is_empty() {
        row.complaints.push(format!("without a virt-handler: {nodes:?}"));
    }
    for component in ["virt-controller", "virt-api"] {
        let least = least(&measured.changes, component, |_| false);
        if least < 2 {
            row.complaints.push(format!("{component}: {least} replicas at some time"));
        }
    }
    if let Some(writes) = audit::writes(audit::OPERATOR, begun)? {
        let written = audit::first_writes(&writes);
        if written != UPDATE_ORDER {
            row.complaints.push(format!("written in the order {}", written.join(", ")));
        }
    }
    row.detail = format!("{} ({})", row.detail, measured.summary);
    Ok(())
}

/// The leader is paused for longer than its lease, wakes up beside its successor, is robbed of its lease, and paused
/// again. Nobody writes after another has begun to.
pub async fn fight(world: &World) -> anyhow::Result<Row> {
    if !node::is_ours() {
        return Ok(Row {
            detail: "not tried: this machine has no access to the nodes".into(),
            ..Row::default()
        });
    }
    world.bring_back().await?;
    let measure = world.measure().await?;
    let observer = Observer::start(&world.cluster.client);
    let operators = world.product.pods("virt-operator").await?;
    let mut handovers = Vec::new();
    let fought = update_and_fight(world, measure.at, &mut handovers).await;
    for pod in &operators {
        // whoever is paused still, after an error, goes on
        let _ = node_of(world, &pod.name_any()).await?.signal(&pod.name_any(), Signal::Continue).await;
    }
    let begun = measure.at;
    let mut row = Row { back: Some(measure.seconds()), ..Row::default() };
    let measured = measure.finish(world).await?;
    row.complaints.extend(fought.err().map(|error| format!("{error:#}")));
    row.complaints.extend(order_complaint(&order(&observer.finish().await?, &NEW, begun)));
    row.detail = handovers.join("; ");
    let names: Vec<String> = operators.iter().map(ResourceExt::name_any).collect();
    let after = world.product.pods("virt-operator").await?;
    if restarts(&after) != restarts(&operators) {
        row.complaints.push(format!("replicas were restarted: {:?}", restarts(&after)));
    }
    let writes = audit::writes(audit::OPERATOR, begun)?.context("the audit log of our own cluster")?;
    let reigns = audit::reigns(&writes, &names);
    let told: Vec<String> = reigns.iter().map(|(pod, number)| format!("{pod} {number}")).collect();
    if reigns.len() > handovers.len() + 1 {
        row.complaints.push(format!("a former leader wrote: {}", told.join(", ")));
    }
    if reigns.len() < 3 {
        row.complaints.push(format!("there was no fight: {}", told.join(", ")));
    }
    row.detail = format!("{}; successful writes in turn: {}", row.detail, told.join(", "));
    judge(world, measured, begun, &mut row).await?;
    Ok(row)
}

/// How often each replica's container was started again.
fn restarts(pods: &[Pod]) -> BTreeSet<(String, i32)> {
    let count = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
        statuses.into_iter().flatten().map(|status| status.restart_count).sum()
    };
    pods.iter().map(|pod| (pod.name_any(), count(pod))).collect()
}

async fn update_and_fight(
    world: &World,
    since: Timestamp,
    handovers: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut stages = event::stages(&world.cluster.client, since);
    let limit = tokio::time::Instant::now() + LIMIT;
    let mut fought = BTreeSet::new();
    world.product.set_tag(&NEW.to_string()).await?;
    loop {
        ensure!(tokio::time::Instant::now() < limit, "not updated after {} s", LIMIT.as_secs());
        let said = tokio::select! {
            said = stages.next() => said.context("the watch of events ended")?,
            () = tokio::time::sleep(LOOK) => {
                let object = world.product.object().await?.context("there is no KubeVirt object")?;
                if world.product.settled().await? == Some(NEW) {
                    return Ok(());
                }
                ensure!(object.status.is_some(), "{}", how_it_stands(&object));
                continue;
            }
        };
        let updating = said.note.contains("updating to");
        if !updating || holder(world).await? != said.by || !fought.insert(said.reason.clone()) {
            continue;
        }
        match said.reason.as_str() {
            "Handlers" | "Api" => {
                let successor = pause(world, &said.by, &mut stages).await?;
                handovers.push(format!("{} paused at {}, {successor} took over", said.by, said.reason));
            }
            "Controllers" => {
                let successor = steal(world, &mut stages).await?;
                handovers.push(format!("lease of {} stolen at Controllers, then {successor}'s", said.by));
            }
            _ => {}
        }
    }
}

/// Pauses the leader until another has begun its work, and lets it go on then.
async fn pause(
    world: &World,
    leader: &str,
    stages: &mut (impl futures::Stream<Item = event::Said> + Unpin),
) -> anyhow::Result<String> {
    let node = node_of(world, leader).await?;
    node.signal(leader, Signal::Stop).await?;
    let successor = taken_over(world, leader, stages).await;
    node.signal(leader, Signal::Continue).await?;
    successor
}

/// Gives the lease to somebody who doesn't exist.
async fn steal(
    world: &World,
    stages: &mut (impl futures::Stream<Item = event::Said> + Unpin),
) -> anyhow::Result<String> {
    let thief = "a-thief";
    let leases: Api<Lease> = Api::namespaced(world.cluster.client.clone(), NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": thief, "acquireTime": now, "renewTime": now}});
    leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(patch)).await?;
    taken_over(world, thief, stages).await
}

/// Waits until another than this one leads, and has announced where the update is.
async fn taken_over(
    world: &World,
    former: &str,
    stages: &mut (impl futures::Stream<Item = event::Said> + Unpin),
) -> anyhow::Result<String> {
    let what = format!("another to take over from {former}");
    let successor = wait::until(what, TAKEN_OVER, async || {
        let holder = holder(world).await?;
        Ok(if holder == former || holder.is_empty() { Look::NotYet(holder) } else { Look::Done(holder) })
    })
    .await?;
    let announced = async {
        while let Some(said) = stages.next().await {
            if said.by == successor {
                return Ok(());
            }
        }
        anyhow::bail!("the watch of events ended")
    };
    tokio::time::timeout(TAKEN_OVER, announced).await.context("the successor announced no stage")??;
    Ok(successor)
}

async fn holder(world: &World) -> anyhow::Result<String> {
    let leases: Api<Lease> = Api::namespaced(world.cluster.client.clone(), NAMESPACE);
    Ok(leases.get(LEASE).await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}
