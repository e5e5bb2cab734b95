//! What virt-operator refuses: with a clear message, and with nothing broken.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::api::{Api, DeleteParams, PostParams};
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_types::condition::{ConditionStatus, is_true};
use kubevirt_types::{KubeVirt, Release, labels};
use serde_json::{Value, json};

use crate::product::NAMESPACE;
use crate::suite::Context;
use crate::vm::Vms;
use crate::wait::{self, Look};

/// A second KubeVirt object, one in another namespace, a tag that is no release.
pub async fn of_kubevirt_objects(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let elsewhere = ["already", "metadata.namespace", "create the KubeVirt object there"];
    for (namespace, expected) in [(NAMESPACE, &elsewhere[..1]), (context.namespace.as_str(), &elsewhere[..])]
    {
        let api: Api<KubeVirt> = Api::namespaced(context.cluster.client.clone(), namespace);
        let second: KubeVirt = serde_json::from_value(json!({"metadata": {"name": "second"}, "spec": {}}))?;
        let error = api.create(&PostParams::default(), &second).await.err();
        let message = error.with_context(|| format!("a second one in {namespace} was accepted"))?.to_string();
        ensure!(expected.iter().all(|part| message.contains(part)), "{message}");
        ensure!(api.get_opt("second").await?.is_none());
    }
    for tag in ["latest", "v0.18", "v1;rm"] {
        let error = context.product.set_tag(tag).await.err();
        let message = format!("{:#}", error.with_context(|| format!("tag {tag} was accepted"))?);
        ensure!(message.contains("spec.imageTag") && message.contains("v0.18.0"), "{message}");
    }
    ensure!(context.product.settled().await?.is_some(), "a refusal changed something");
    Ok(())
}

/// A tag that is a release but has no image: named in a condition, nothing broken, over when patched back.
pub async fn of_an_impossible_tag(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    product.set_tag("v9.9.9").await?;
    wait::until("a condition that names the image", Duration::from_secs(120), async || {
        let degraded = product.condition("Degraded").await?.context("no Degraded condition")?;
        let message = degraded.message.unwrap_or_default();
        wait::when(
            degraded.status == ConditionStatus::True
                && message.contains("v9.9.9")
                && message.contains("ErrImage"),
            message,
        )
    })
    .await?;
    let status = product.object().await?.and_then(|kv| kv.status).context("status")?;
    ensure!(is_true(&status.conditions, "Available"), "not available: {:?}", status.conditions);
    ensure!(status.observed_kube_virt_version.as_deref() == Some("v0.17.0"));
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create("meanwhile", "Always", None).await?;
    vms.wait_running("meanwhile").await?;
    product.set_tag("v0.17.0").await?;
    product.wait_for(&Release::V0_17_0).await?;
    product.unset_tag().await?;
    product.wait_for(&Release::V0_17_0).await?;
    vms.delete("meanwhile").await
}

/// A release that renames a CRD's version is refused before anything is written.
pub async fn of_a_changed_crd_version(context: Context) -> anyhow::Result<()> {
    let product = &context.product;
    product.bring_to(&Release::V0_17_0).await?;
    let config = InstallConfig {
        release: "v0.19.0".parse()?,
        registry: crate::cluster::registry(),
        ..InstallConfig::of(Release::V0_18_0)
    };
    let strategy = strategy_with_renamed_version(&config)?;
    let name = format!("kubevirt-install-strategy-{}", config.id());
    context.cluster.apply(&strategy_config_map(&name, &config, &strategy)).await?;
    product.set_tag("v0.19.0").await?;
    let outcome = wait::until("the refusal", Duration::from_secs(90), async || {
        let degraded = product.condition("Degraded").await?.context("no Degraded condition")?;
        let message = degraded.message.unwrap_or_default();
        let named = message.contains("virtualmachines.kubevirt.io") && message.contains("version");
        Ok(if named && degraded.status == ConditionStatus::True {
            Look::Done(())
        } else {
            Look::NotYet(message)
        })
    })
    .await;
    let crds = context.cluster.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", None).await?;
    let versions = crds.get("virtualmachines.kubevirt.io").await?.data["spec"]["versions"].clone();
    product.set_tag("v0.17.0").await?;
    let maps = context.cluster.api("v1", "ConfigMap", Some(NAMESPACE)).await?;
    if maps.get_opt(&name).await?.is_some() {
        maps.delete(&name, &DeleteParams::default()).await?;
    }
    product.wait_for(&Release::V0_17_0).await?;
    outcome?;
    let names: Vec<&str> =
        versions.as_array().context("versions")?.iter().filter_map(|v| v["name"].as_str()).collect();
    ensure!(names == ["v1", "v1alpha3"], "{names:?}");
    Ok(())
}

fn strategy_with_renamed_version(config: &InstallConfig) -> anyhow::Result<ManifestSet> {
    let mut set = manifests(config);
    for manifest in &mut set.manifests {
        if manifest.key.name == "virtualmachines.kubevirt.io" {
            let version = manifest.body.pointer_mut("/spec/versions/0/name").context("a stored version")?;
            *version = json!("v2");
            *manifest = manifest.clone().rehashed();
        }
    }
    Ok(set)
}

fn strategy_config_map(name: &str, config: &InstallConfig, strategy: &ManifestSet) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR, labels::INSTALL_STRATEGY: ""},
            "annotations": {
                labels::INSTALL_IDENTIFIER: config.id(),
                labels::INSTALL_VERSION: config.release.to_string(),
                labels::INSTALL_REGISTRY: config.registry,
                labels::INSTALL_ENCODING: "gzip+base64",
            },
        },
        "data": {"manifests": strategy.encode()},
    })
}
