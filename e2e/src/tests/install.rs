//! Installing from nothing, what a user then sees, and uninstalling.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::ResourceExt;
use kube::api::{DynamicObject, ListParams};
use kubevirt_types::{KubeVirtPhase, Release};
use serde_json::Value;

use crate::suite::Context;
use crate::vm::Vms;
use crate::wait;

/// From a cluster without KubeVirt to v0.17.0 with its status complete.
pub async fn from_nothing(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.install_from_nothing(&Release::V0_17_0).await?;

    let object = product.object().await?.context("KubeVirt object")?;
    let status = object.status.clone().context("status")?;
    ensure!(status.phase == Some(KubeVirtPhase::Deployed), "phase {:?}", status.phase);
    ensure!(status.operator_version.as_deref() == Some("v0.17.0"), "{:?}", status.operator_version);
    ensure!(status.observed_kube_virt_registry.as_deref() == Some(crate::cluster::registry().as_str()));
    ensure!(status.observed_deployment_id == status.target_deployment_id, "{status:?}");
    ensure!(status.observed_deployment_id.is_some_and(|id| !id.is_empty()));
    ensure!(!status.generations.is_empty(), "no generations");
    for component in ["virt-api", "virt-controller", "virt-handler"] {
        let pods = product.pods(component).await?;
        ensure!(pods.len() >= 2, "{} pods of {component}", pods.len());
        let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        ensure!(nodes.len() == pods.len(), "{component} runs on {nodes:?}");
    }
    Ok(())
}

/// Short names, columns, served versions, discovery, and that v0.17.0 lacks what v0.18.0 brings.
pub async fn looks_as_a_user_knows_it(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    let client = &context.cluster.client;
    let get = async |path: &str| -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(client.request(request).await?)
    };
    for version in ["v1", "v1alpha3"] {
        let list = get(&format!("/apis/kubevirt.io/{version}")).await?;
        let resources = list["resources"].as_array().context("resources")?;
        for (plural, short) in [
            ("kubevirts", "kv"),
            ("virtualmachines", "vm"),
            ("virtualmachineinstances", "vmi"),
            ("virtualmachineinstancemigrations", "vmim"),
        ] {
            let resource =
                resources.iter().find(|r| r["name"] == plural).with_context(|| format!("no {plural}"))?;
            ensure!(resource["shortNames"][0] == short, "{resource}");
        }
        ensure!(
            !resources.iter().any(|r| r["name"] == "virtualmachineinstancereplicasets"),
            "v0.17.0 knows replica sets"
        );
        let subresources = get(&format!("/apis/subresources.kubevirt.io/{version}")).await?;
        let names = subresources["resources"].to_string();
        ensure!(names.contains("virtualmachineinstances/console"), "{names}");
        ensure!(names.contains("virtualmachines/start"), "{names}");
        ensure!(!names.contains("virtualmachineinstances/pause"), "v0.17.0 knows pause");
        get(&format!("/apis/subresources.kubevirt.io/{version}/healthz")).await?;
    }
    let version = get("/apis/subresources.kubevirt.io/v1/version").await?;
    ensure!(version["gitVersion"] == "v0.17.0", "{version}");
    let gate = get("/apis/subresources.kubevirt.io/v1/status").await?;
    ensure!(gate["floor"] == "v0.17.0", "{gate}");
    let crds = context.cluster.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", None).await?;
    let columns = crds.get("virtualmachineinstances.kubevirt.io").await?.data["spec"]["versions"][0]
        ["additionalPrinterColumns"]
        .clone();
    let names: Vec<&str> =
        columns.as_array().context("columns")?.iter().filter_map(|c| c["name"].as_str()).collect();
    ensure!(names == ["Age", "Phase", "IP", "NodeName", "Ready", "Live-Migratable", "Paused"], "{names:?}");
    Ok(())
}

/// Everything goes, VMs too; a second installation works.
pub async fn uninstall(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    if product.object().await?.is_none() {
        product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("doomed", "Always", None).await?;
    vms.wait_running("doomed").await?;
    product.uninstall().await?;

    let managed = ListParams::default().labels("app.kubernetes.io/managed-by=virt-operator");
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("v1", "Service"),
        ("v1", "Secret"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("apiregistration.k8s.io/v1", "APIService"),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    ] {
        let api = context.cluster.api(api_version, kind, Some(crate::product::NAMESPACE)).await?;
        wait::until(format!("no {kind} of ours to be left"), Duration::from_secs(60), async || {
            let left: Vec<String> = api.list(&managed).await?.iter().map(DynamicObject::name_any).collect();
            wait::when(left.is_empty(), left.join(", "))
        })
        .await?;
    }
    wait::until("the launcher pod to be gone", Duration::from_secs(120), async || {
        let pods = vms.launcher_pods("doomed").await?.len();
        wait::when(pods == 0, format!("{pods} pods"))
    })
    .await?;
    product.bring_to(&Release::V0_17_0).await
}
