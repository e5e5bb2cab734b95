//! A control plane that has two nodes and no third: its replicas are on both at every moment of an update, there and back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use kubevirt_types::Release;

use crate::cluster::Cluster;
use crate::coverage::{Coverage, fewest_nodes};
use crate::node::Node;
use crate::product::{Product, is_ready};
use crate::suite::Context;
use crate::wait;

/// Those that have two replicas and are replaced by an update.
const COMPONENTS: [&str; 2] = ["virt-api", "virt-controller"];
/// A replica's image is there; it starts within seconds.
const MOVED_LIMIT: Duration = Duration::from_secs(180);

/// From v0.17.0 to v0.18.0 and back, with all nodes but two cordoned.
pub async fn there_and_back(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    let (left, others) = all_but_two(&context.cluster).await?;
    println!("    the control plane is left {}", left.join(" and "));
    let mut outcome = Ok(());
    for node in &others {
        outcome = outcome.and(node.cordon(&context.cluster.client, true).await);
    }
    if outcome.is_ok() {
        outcome = update(&context, &left).await;
    }
    for node in &others {
        outcome = outcome.and(node.cordon(&context.cluster.client, false).await);
    }
    outcome
}

/// A control plane's node and a worker, which are not alike to the scheduler; and those to cordon.
async fn all_but_two(cluster: &Cluster) -> anyhow::Result<(Vec<String>, Vec<Node>)> {
    let nodes: Api<ApiNode> = Api::all(cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let (planes, workers): (Vec<ApiNode>, Vec<ApiNode>) = nodes
        .into_iter()
        .partition(|node| node.labels().contains_key("node-role.kubernetes.io/control-plane"));
    let mut names =
        planes.iter().take(1).chain(&workers).chain(planes.iter().skip(1)).map(ResourceExt::name_any);
    let left: Vec<String> = names.by_ref().take(2).collect();
    ensure!(left.len() == 2, "there is only {left:?}");
    Ok((left, names.map(Node).collect()))
}

async fn update(context: &Context, left: &[String]) -> anyhow::Result<()> {
    let product = &context.product;
    for component in COMPONENTS.iter().chain(&["virt-operator"]) {
        move_to(product, component, left).await?;
    }
    for release in [Release::V0_18_0, Release::V0_17_0] {
        let coverage = Coverage::start(&context.cluster.client);
        wait::until("a first look at the pods", Duration::from_secs(30), async || {
            wait::when(coverage.is_complete(), "none yet")
        })
        .await?;
        product.set_tag(&release.to_string()).await?;
        product.wait_for(&release).await?;
        let changes = coverage.finish().await?;
        for component in COMPONENTS {
            let nodes = fewest_nodes(&changes, component);
            println!("    to {release}: {component} served on {nodes} nodes at every moment");
            ensure!(nodes == 2, "on the way to {release} {component} served on {nodes} nodes");
        }
    }
    Ok(())
}

/// Deletes replicas that are elsewhere, one by one, until two are ready on these nodes.
async fn move_to(product: &Product, component: &str, nodes: &[String]) -> anyhow::Result<()> {
    let on = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).is_some_and(|node| nodes.contains(&node))
    };
    let elsewhere = product.pods(component).await?.into_iter().filter(|pod| !on(pod));
    for pod in elsewhere.map(|pod| pod.name_any()).collect::<Vec<_>>() {
        product.all_pods().delete(&pod, &DeleteParams::default()).await.with_context(|| pod.clone())?;
        wait::until(format!("two of {component} on {}", nodes.join(" and ")), MOVED_LIMIT, async || {
            let pods = product.pods(component).await?;
            let ready = pods.iter().filter(|pod| is_ready(pod) && on(pod)).count();
            wait::when(ready == 2, format!("{ready} are ready there"))
        })
        .await?;
    }
    Ok(())
}
