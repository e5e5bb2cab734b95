//! The stored version of a kind changes: objects are rewritten, nothing of them is lost, and the old version may go.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{GROUP, Kind, Release};
use serde_json::{Value, json};

use crate::product::NAMESPACE;
use crate::suite::Context;
use crate::vm::{Vms, tick_vm};
use crate::wait::{self, Look};

const CRD: &str = "virtualmachines.kubevirt.io";
const OLD: &str = "v1alpha3";
const NEW: &str = "v1";
const NAME: &str = "every-field";
/// The operator waits until every API server knows the version that is stored, then rewrites what there is.
const MIGRATED: Duration = Duration::from_secs(180);

/// Objects that an early release has stored as v1alpha3 become v1, with every field, and v1alpha3 is forgotten.
pub async fn of_an_early_release(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let operator = context.cluster.api("apps/v1", "Deployment", Some(NAMESPACE)).await?;
    let scale = async |replicas: i32| {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        operator.patch("virt-operator", &PatchParams::default(), &patch).await
    };
    let before =
        operator.get("virt-operator").await?.data["spec"]["replicas"].as_i64().context("replicas")?;
    scale(0).await?;
    let outcome = migrated(&context, async || {
        scale(i32::try_from(before)?).await?;
        Ok(())
    })
    .await;
    // whatever went wrong, the next test finds an operator, and that puts the CRD right
    scale(i32::try_from(before)?).await?;
    outcome
}

async fn migrated(context: &Context, start: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let client = &context.cluster.client;
    wait::until("every virt-operator to be gone", Duration::from_secs(90), async || {
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let left = pods.list(&ListParams::default().labels("kubevirt.io=virt-operator")).await?.items.len();
        wait::when(left == 0, format!("{left} pods"))
    })
    .await?;
    let crds = context.cluster.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", None).await?;
    store_as(client, &crds, OLD).await?;
    let stored = stored_versions(&crds).await?;
    ensure!(stored.contains(&OLD.to_owned()), "the API server has stored {stored:?}");

    let vms = |version: &str| -> Api<DynamicObject> { vms(client, version, &context.namespace) };
    let wanted = every_field();
    let created = vms(OLD).create(&PostParams::default(), &serde_json::from_value(wanted.clone())?).await?;
    holds(&wanted["spec"], &created.data["spec"], "spec").context("what was created")?;
    Vms::of(&context.cluster, &context.namespace).wait_printable(NAME, PrintableStatus::Stopped).await?;
    let old = at_rest(&vms(OLD)).await?;
    is_stored_as_written(&vms(OLD)).await?;

    start().await?;
    wait::until("the operator to bring the CRD back and clean it", MIGRATED, async || {
        let crd = crds.get(CRD).await?;
        let storage = storage_version(&crd).unwrap_or_default();
        let stored = stored_versions(&crds).await?;
        wait::when(storage == NEW && stored == [NEW], format!("writes {storage}, has stored {stored:?}"))
    })
    .await?;
    let new = vms(NEW).get(NAME).await?;
    is_stored_as_written(&vms(NEW)).await?;
    ensure!(new.metadata.resource_version != old.metadata.resource_version, "the object was not rewritten");
    ensure!(new.metadata.generation == old.metadata.generation, "the object was changed");
    ensure!(
        new.metadata.managed_fields == old.metadata.managed_fields,
        "somebody else owns fields of it now"
    );
    ensure!(new.data == old.data, "as v1: {:#?}\nas v1alpha3: {:#?}", new.data, old.data);
    let back = vms(OLD).get(NAME).await?;
    ensure!(back.data == new.data && back.metadata == new.metadata, "v1alpha3 says something else than v1");

    // and the other way round: what is written as v1 is read as v1alpha3, and what is written as that as v1
    for (written, read) in [(NEW, OLD), (OLD, NEW)] {
        let patch = json!({"spec": {"template": {"spec": {"hostname": format!("from-{written}")}}}});
        vms(written).patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let found = vms(read).get(NAME).await?.data;
        let mut expected = new.data["spec"].clone();
        expected["template"]["spec"]["hostname"] = json!(format!("from-{written}"));
        ensure!(found["spec"] == expected, "written as {written}, read as {read}: {found:#}");
    }
    Vms::of(&context.cluster, &context.namespace).delete(NAME).await
}

/// A VM with every field that virt-api admits, but `running`, which excludes `runStrategy`.
fn every_field() -> Value {
    let mut vm = tick_vm(NAME, "Halted", None);
    vm["apiVersion"] = json!(format!("{GROUP}/{OLD}"));
    vm["metadata"]["labels"] = json!({"app": NAME});
    vm["metadata"]["annotations"] = json!({"example.com/note": "kept"});
    let template = &mut vm["spec"]["template"];
    template["metadata"]["annotations"] = json!({"example.com/note": "kept"});
    let domain = template["spec"]["domain"].clone();
    template["spec"] = json!({
        "domain": domain,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1,
            "preference": {"matchExpressions": [
                {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
            ]},
        }]}},
        "tolerations": [{
            "key": "example.com/vms", "operator": "Equal", "value": "yes", "effect": "NoExecute",
            "tolerationSeconds": 30,
        }],
        "terminationGracePeriodSeconds": 7,
        "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "64Mi"}}],
        "networks": [{"name": "default", "pod": {}}],
        "hostname": "kept",
    });
    let domain = &mut template["spec"]["domain"];
    domain["cpu"] = json!({"cores": 1, "sockets": 2, "threads": 1, "model": "max"});
    domain["resources"] =
        json!({"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
    domain["machine"] = json!({"type": "q35"});
    domain["firmware"]["uuid"] = json!("5d307ca9-b3ef-428c-8861-06e72d69f223");
    domain["firmware"]["serial"] = json!("kept-serial");
    domain["firmware"]["kernelBoot"]["container"]["imagePullSecret"] = json!("kept");
    domain["devices"] = json!({
        "disks": [{"name": "scratch", "disk": {"bus": "virtio", "readonly": false}, "serial": "kept"}],
        "interfaces": [{
            "name": "default", "masquerade": {}, "model": "virtio", "macAddress": "02:00:00:00:00:01",
        }],
        "autoattachSerialConsole": true,
        "autoattachGraphicsDevice": false,
        "autoattachPodInterface": true,
        "rng": {},
    });
    vm
}

/// Checks that everything in `wanted` is in `found`, and says where it isn't.
fn holds(wanted: &Value, found: &Value, at: &str) -> anyhow::Result<()> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().try_for_each(|(name, value)| {
            holds(value, found.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"))
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            (wanted.iter().zip(found).enumerate())
                .try_for_each(|(index, (wanted, found))| holds(wanted, found, &format!("{at}[{index}]")))
        }
        (wanted, found) => {
            ensure!(wanted == found, "{at} was {wanted} and is {found}");
            Ok(())
        }
    }
}

/// The VMs of a namespace, as one version shows them.
fn vms(client: &Client, version: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = kube::core::GroupVersionKind::gvk(GROUP, version, Kind::VirtualMachine.name());
    let resource = ApiResource::from_gvk_with_plural(&gvk, Kind::VirtualMachine.plural());
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The VM, once nobody writes to it any more.
async fn at_rest(vms: &Api<DynamicObject>) -> anyhow::Result<DynamicObject> {
    let mut last: Option<DynamicObject> = None;
    wait::until("the VM to be at rest", Duration::from_secs(60), async || {
        let now = vms.get(NAME).await?;
        let same = last.as_ref().is_some_and(|last| last.metadata == now.metadata);
        last = Some(now.clone());
        Ok(if same { Look::Done(now) } else { Look::NotYet("it still changes".into()) })
    })
    .await
}

async fn stored_versions(crds: &Api<DynamicObject>) -> anyhow::Result<Vec<String>> {
    let crd = crds.get(CRD).await?;
    Ok(serde_json::from_value(crd.data["status"]["storedVersions"].clone())?)
}

fn storage_version(crd: &DynamicObject) -> Option<String> {
    let versions = crd.data["spec"]["versions"].as_array()?;
    let storage = versions.iter().find(|version| version["storage"] == true)?;
    storage["name"].as_str().map(str::to_owned)
}

/// Makes a version the one that is stored, and waits until the API server does so.
async fn store_as(client: &Client, crds: &Api<DynamicObject>, version: &str) -> anyhow::Result<()> {
    let before = storage_hash(client).await?;
    let mut versions = crds.get(CRD).await?.data["spec"]["versions"].clone();
    for known in versions.as_array_mut().context("versions")? {
        known["storage"] = json!(known["name"] == version);
    }
    crds.patch(CRD, &PatchParams::default(), &Patch::Merge(json!({"spec": {"versions": versions}}))).await?;
    wait::until(format!("the API server to store {version}"), Duration::from_secs(30), async || {
        let now = storage_hash(client).await?;
        wait::when(now != before, format!("storageVersionHash {now}"))
    })
    .await
}

/// What discovery says of the version that VMs are stored as.
async fn storage_hash(client: &Client) -> anyhow::Result<String> {
    let resources = client.list_api_group_resources(&format!("{GROUP}/{NEW}")).await?.resources;
    let found = resources.into_iter().find(|resource| resource.name == Kind::VirtualMachine.plural());
    found.and_then(|resource| resource.storage_version_hash).context("a storageVersionHash")
}

/// The API server writes nothing where nothing changes: only an object that is stored as another version than the one
/// that is written now gets a new resourceVersion when it is patched with nothing.
async fn is_stored_as_written(vms: &Api<DynamicObject>) -> anyhow::Result<()> {
    let before = vms.get(NAME).await?.metadata.resource_version;
    let nothing = Patch::Merge(json!({}));
    let after = vms.patch_status(NAME, &PatchParams::default(), &nothing).await?.metadata.resource_version;
    ensure!(before == after, "the object was stored as another version than the CRD says");
    Ok(())
}
