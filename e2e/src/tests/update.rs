//! Updates: by one field, back, back in the middle, and by the operator's manifest.

use anyhow::ensure;
use jiff::Timestamp;
use kubevirt_types::{Kind, KubeVirt, Release};
use serde_json::Value;

use crate::demo::first_tick;
use crate::observer::{Observer, order, order_complaint};
use crate::product::{Product, UPDATE_LIMIT};
use crate::rights::Prober;
use crate::suite::Context;
use crate::vm::{Incarnation, Vms};
use crate::{virtctl, wait};

const GUEST: &str = "survivor";

/// Starts a guest that has to live through what follows.
async fn survivor(context: &Context) -> anyhow::Result<(Vms, Incarnation)> {
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create(GUEST, "Always", None).await?;
    vms.wait_running(GUEST).await?;
    first_tick(&context.cluster, &vms, GUEST).await?;
    let incarnation = vms.incarnation(GUEST).await?;
    Ok((vms, incarnation))
}

/// The guest is the same as before, and its VM can be stopped.
async fn survived(vms: &Vms, before: &Incarnation) -> anyhow::Result<()> {
    let after = vms.incarnation(GUEST).await?;
    ensure!(*before == after, "before {before:?}, after {after:?}");
    vms.delete(GUEST).await
}

/// The plan names the way there, stage by stage, and nobody has done a thing.
async fn planned(product: &Product) -> anyhow::Result<()> {
    let before = product.object().await?;
    let plan = virtctl::plan(Some("v0.18.0")).await?;
    ensure!(
        plan["direction"] == "Update" && plan["from"] == "v0.17.0" && plan["to"] == "v0.18.0",
        "the plan goes elsewhere: {plan}"
    );
    let stages: Vec<&str> = plan["stages"].as_array().into_iter().flatten().filter_map(coming).collect();
    let rolls: Vec<&&str> =
        stages.iter().filter(|stage| ["Handlers", "Controllers", "Api"].contains(stage)).collect();
    ensure!(rolls == [&"Handlers", &"Controllers", &"Api"], "planned in the order {stages:?}");
    let refused = virtctl::refused_plan("nonsense").await?;
    ensure!(refused.contains("spec.imageTag") && refused.contains("nonsense"), "{refused}");
    ensure!(product.object().await?.map(spec) == before.map(spec), "a plan has changed the object");
    Ok(())
}

/// A stage that isn't over.
fn coming(stage: &Value) -> Option<&str> {
    stage["stage"].as_str().filter(|_| stage["state"] != "Done")
}

/// What a person may change of the object.
fn spec(object: KubeVirt) -> (Option<i64>, String) {
    (object.metadata.generation, format!("{:?}", object.spec))
}

/// One field patched: everything is v0.18.0, in order, the guest is who it was, and at every moment who was at work could
/// do what its release does.
pub async fn by_image_tag(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    planned(product).await?;
    let (vms, before) = survivor(&context).await?;
    let observer = Observer::start(&context.cluster.client);
    let prober = Prober::start(product, Release::V0_17_0, Release::V0_18_0);
    let begun = Timestamp::now();
    product.set_tag("v0.18.0").await?;
    product.wait_for(&Release::V0_18_0).await?;
    let asked = prober.finish().await?;
    println!("    the accounts' rights were asked for {asked} times");
    let pods = observer.finish().await?;
    let complaint = order_complaint(&order(&pods, &Release::V0_18_0, begun));
    ensure!(complaint.is_none(), "{complaint:?}");
    survived(&vms, &before).await?;
    let plan = virtctl::plan(None).await?;
    ensure!(plan["direction"] == "Steady" && plan["stage"] == "Settled", "planned at the target: {plan}");

    let api = product.replica_sets(&context.namespace);
    api.list(&kube::api::ListParams::default()).await?;
    ensure!(Kind::VirtualMachineInstanceReplicaSet.exists_in(&Release::V0_18_0));
    Ok(())
}

/// From v0.18.0 to v0.17.0: what was new is gone, the guest is who it was.
pub async fn rollback(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    if product.settled().await? != Some(Release::V0_18_0) {
        product.bring_to(&Release::V0_18_0).await?;
    }
    let (vms, before) = survivor(&context).await?;
    let observer = Observer::start(&context.cluster.client);
    let begun = Timestamp::now();
    product.set_tag("v0.17.0").await?;
    product.wait_for(&Release::V0_17_0).await?;
    let mut order = order(&observer.finish().await?, &Release::V0_17_0, begun);
    let api = order.pop();
    let api_ready = api.and_then(|part| part.last_ready);
    for part in &order {
        ensure!(part.first_created.is_some(), "{} was not replaced", part.component);
        let created = part.first_created.map(|time| time + jiff::SignedDuration::from_secs(1));
        ensure!(created >= api_ready, "{} went back before virt-api", part.component);
    }
    let rules = product.cluster_rules("kubevirt-controller").await?.unwrap_or_default().to_string();
    ensure!(!rules.contains("replicasets"), "rules of v0.18.0 are left: {rules}");
    let listed = product.replica_sets(&context.namespace).list(&kube::api::ListParams::default()).await;
    ensure!(
        matches!(&listed, Err(kube::Error::Api(status)) if status.code == 404),
        "the kind that v0.17.0 lacks is still there: {listed:?}"
    );
    survived(&vms, &before).await
}

/// Patched back while the update goes on: everything is v0.17.0 again.
pub async fn back_in_the_middle(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    let (vms, before) = survivor(&context).await?;
    product.set_tag("v0.18.0").await?;
    wait::until("a virt-handler of v0.18.0", UPDATE_LIMIT, async || {
        let pods = product.pods("virt-handler").await?;
        let new = pods.iter().filter(|pod| crate::product::is_of(pod, &Release::V0_18_0)).count();
        wait::when(new > 0, "none yet")
    })
    .await?;
    product.set_tag("v0.17.0").await?;
    product.wait_for(&Release::V0_17_0).await?;
    for component in ["virt-api", "virt-controller", "virt-handler"] {
        for pod in product.pods(component).await? {
            let old = crate::product::is_of(&pod, &Release::V0_17_0);
            ensure!(old || pod.metadata.deletion_timestamp.is_some(), "{:?} is left", pod.metadata.name);
        }
    }
    survived(&vms, &before).await
}

/// A newer kubevirt-operator.yaml applied, with neither imageTag nor imageRegistry set.
pub async fn by_operator_manifest(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    let (vms, before) = survivor(&context).await?;
    let observer = Observer::start(&context.cluster.client);
    let begun = Timestamp::now();
    product.apply_operator(&Release::V0_18_0).await?;
    product.wait_for(&Release::V0_18_0).await?;
    let complaint = order_complaint(&order(&observer.finish().await?, &Release::V0_18_0, begun));
    ensure!(complaint.is_none(), "{complaint:?}");
    survived(&vms, &before).await
}
