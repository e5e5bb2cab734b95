//! The product as its administrator sees it: manifests applied, one field patched, conditions read.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use kubevirt_types::condition::{Condition, is_true};
use kubevirt_types::{Kind, KubeVirt, Release, labels};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::{self, Look};

/// The namespace that the manifests install into.
pub const NAMESPACE: &str = labels::DEFAULT_NAMESPACE;
/// An update of a small cluster takes about a minute; a machine under load takes longer.
pub const UPDATE_LIMIT: Duration = Duration::from_secs(420);

/// For how long a new pod must have been good here before the next is replaced. The default of 40 s is for clusters
/// whose new version may be bad; tests with a good one would only wait. Faults that show late are tried with the default.
pub const SOAK_SECONDS: u32 = 5;

/// The product on a cluster.
#[derive(Clone)]
pub struct Product {
    pub cluster: Cluster,
    pub objects: Api<KubeVirt>,
}

impl Product {
    /// The product on this cluster, installed or not.
    pub fn on(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), objects: Api::namespaced(cluster.client.clone(), NAMESPACE) }
    }

    /// Applies `kubevirt-operator.yaml` of a release.
    pub async fn apply_operator(&self, release: &Release) -> anyhow::Result<()> {
        self.cluster.apply_file(&format!("manifests/{release}/kubevirt-operator.yaml")).await
    }

    /// Applies `kubevirt-cr.yaml` of a release, with a short soak.
    pub async fn apply_object(&self, release: &Release) -> anyhow::Result<()> {
        for mut object in self.cluster.objects(&format!("manifests/{release}/kubevirt-cr.yaml"))? {
            object["spec"]["updateStrategy"] = json!({"soakSeconds": SOAK_SECONDS});
            self.cluster.apply(&object).await?;
        }
        Ok(())
    }

    /// Patches the spec as `kubectl patch --type=merge` does.
    pub async fn patch_spec(&self, spec: Value) -> anyhow::Result<()> {
        let patch = json!({"spec": spec});
        self.objects
            .patch("kubevirt", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("patching KubeVirt with {patch}"))?;
        Ok(())
    }

    /// The one-line patch of `spec.imageTag`.
    pub async fn set_tag(&self, tag: &str) -> anyhow::Result<()> {
        let patch: json_patch::Patch =
            serde_json::from_value(json!([{"op": "add", "path": "/spec/imageTag", "value": tag}]))?;
        self.objects
            .patch("kubevirt", &PatchParams::default(), &Patch::Json::<()>(patch))
            .await
            .with_context(|| format!("patching spec.imageTag to {tag}"))?;
        Ok(())
    }

    /// Removes `spec.imageTag`: the version is locked to the operator's again.
    pub async fn unset_tag(&self) -> anyhow::Result<()> {
        self.patch_spec(json!({"imageTag": null})).await
    }

    /// Takes all back that a test may have set: the version is locked to the operator's, the components are as shipped.
    pub async fn unset_all(&self) -> anyhow::Result<()> {
        self.patch_spec(json!({
            "imageTag": null, "imageRegistry": null, "customizeComponents": null,
            "updateStrategy": {"onFailure": null, "drainSeconds": null, "soakSeconds": SOAK_SECONDS},
        }))
        .await
    }

    /// The KubeVirt object; none where nothing is installed.
    pub async fn object(&self) -> anyhow::Result<Option<KubeVirt>> {
        match self.objects.get("kubevirt").await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A condition of the KubeVirt object.
    pub async fn condition(&self, type_: &str) -> anyhow::Result<Option<Condition>> {
        let conditions = self.object().await?.and_then(|kv| kv.status).unwrap_or_default().conditions;
        Ok(conditions.into_iter().find(|condition| condition.type_ == type_))
    }

    /// Waits until a release is everywhere and nothing is going on.
    pub async fn wait_for(&self, release: &Release) -> anyhow::Result<()> {
        wait::until(format!("KubeVirt {release}"), UPDATE_LIMIT, async || {
            let object = self.object().await?.context("there is no KubeVirt object")?;
            Ok(if runs(&object, release) { Look::Done(()) } else { Look::NotYet(how_it_stands(&object)) })
        })
        .await
    }

    /// The release that runs; none while nothing does or an update goes on.
    pub async fn settled(&self) -> anyhow::Result<Option<Release>> {
        let Some(object) = self.object().await? else { return Ok(None) };
        Ok(Release::ALL.into_iter().find(|release| runs(&object, release)))
    }

    /// Brings the cluster to a release whatever state it is in: operator and KubeVirt object of that release,
    /// with nothing else set.
    pub async fn bring_to(&self, release: &Release) -> anyhow::Result<()> {
        println!("  bringing KubeVirt {release} up");
        if self.object().await.is_ok_and(|object| object.is_some_and(|o| o.is_deleting())) {
            self.wait_until_gone().await?;
        }
        self.apply_operator(release).await?;
        self.apply_object(release).await?;
        self.unset_all().await?;
        self.wait_for_operator(release).await?;
        self.wait_for(release).await
    }

    /// From whatever there is to nothing, and from there to a release. What then runs is what the images hold
    /// now: a release that was installed before may run older builds under the same tags.
    pub async fn install_from_nothing(&self, release: &Release) -> anyhow::Result<()> {
        if self.object().await.is_ok_and(|object| object.is_some()) {
            println!("  removing the KubeVirt that is installed");
            self.uninstall().await?;
        }
        self.remove_operator(&Release::V0_18_0).await?;
        self.bring_to(release).await
    }

    /// Waits until only operator pods of a release are left.
    pub async fn wait_for_operator(&self, release: &Release) -> anyhow::Result<()> {
        wait::until(format!("virt-operator {release}"), Duration::from_secs(180), async || {
            let pods = self.pods("virt-operator").await?;
            let of_release = pods.iter().filter(|pod| is_of(pod, release) && is_ready(pod)).count();
            wait::when(
                of_release == 2 && pods.len() == 2,
                format!("{of_release} of {} pods are ready and of {release}", pods.len()),
            )
        })
        .await
    }

    /// The pods of a component.
    pub async fn pods(&self, component: &str) -> anyhow::Result<Vec<Pod>> {
        let of_component = ListParams::default().labels(&format!("{}={component}", labels::APP));
        Ok(self.all_pods().list(&of_component).await?.items)
    }

    /// The virt-handler of a node.
    pub async fn handler_on(&self, node: &str) -> anyhow::Result<Pod> {
        let on = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        let handlers = self.pods("virt-handler").await?;
        handlers.into_iter().find(on).with_context(|| format!("no virt-handler on {node}"))
    }

    /// The pods of the namespace that it is installed in.
    pub fn all_pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), NAMESPACE)
    }

    /// Deletes the KubeVirt object and waits until it and all that it made are gone.
    pub async fn uninstall(&self) -> anyhow::Result<()> {
        match self.objects.delete("kubevirt", &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        self.wait_until_gone().await
    }

    async fn wait_until_gone(&self) -> anyhow::Result<()> {
        wait::until("the KubeVirt object to be gone", UPDATE_LIMIT, async || {
            let object = self.object().await?;
            wait::when(object.is_none(), object.as_ref().map(how_it_stands).unwrap_or_default())
        })
        .await
    }

    /// Removes the operator itself: everything in its manifest.
    pub async fn remove_operator(&self, release: &Release) -> anyhow::Result<()> {
        let objects = self.cluster.objects(&format!("manifests/{release}/kubevirt-operator.yaml"))?;
        for object in objects.iter().rev() {
            let key = kubevirt_types::ObjectKey::of(object).context("an object has a key")?;
            let Ok(api) = self.cluster.api(&key.api_version, &key.kind, key.namespace.as_deref()).await
            else {
                continue;
            };
            match api.delete(&key.name, &DeleteParams::background()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("deleting {key}")),
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        wait::until("namespace kubevirt to be gone", Duration::from_secs(240), async || {
            wait::when(namespaces.get_opt(NAMESPACE).await?.is_none(), "still there")
        })
        .await
    }

    /// The rules of a ClusterRole, none where it doesn't exist.
    pub async fn cluster_rules(&self, name: &str) -> anyhow::Result<Option<Value>> {
        let roles = self.cluster.api("rbac.authorization.k8s.io/v1", "ClusterRole", None).await?;
        Ok(roles.get_opt(name).await?.map(|role| role.data["rules"].clone()))
    }

    /// Replica sets in a namespace: an Api that works whether or not the kind exists.
    pub fn replica_sets(&self, namespace: &str) -> Api<DynamicObject> {
        self.cluster.ours(Kind::VirtualMachineInstanceReplicaSet, namespace)
    }
}

/// Whether a release is everywhere and nothing is going on.
fn runs(object: &KubeVirt, release: &Release) -> bool {
    let Some(status) = &object.status else { return false };
    let wanted = release.to_string();
    status.observed_kube_virt_version.as_ref() == Some(&wanted)
        && status.target_kube_virt_version.as_ref() == Some(&wanted)
        && status.observed_generation == object.meta().generation
        && is_true(&status.conditions, "Available")
        && !is_true(&status.conditions, "Progressing")
        && !is_true(&status.conditions, "Degraded")
}

/// Phase and conditions in one line: each message once, with the conditions that say it.
pub fn how_it_stands(object: &KubeVirt) -> String {
    let Some(status) = &object.status else { return "no status".to_owned() };
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for condition in &status.conditions {
        let message = condition.message.clone().unwrap_or_default();
        let shown = format!("{}={:?}", condition.type_, condition.status);
        match said.iter_mut().find(|(other, _)| *other == message) {
            Some((_, conditions)) => conditions.push(shown),
            None => said.push((message, vec![shown])),
        }
    }
    let said: Vec<String> = said
        .into_iter()
        .map(|(message, conditions)| format!("{}: {message}", conditions.join(" ")))
        .collect();
    let phase = status.phase.map_or("no phase".to_owned(), |phase| format!("{phase:?}"));
    format!("{phase}; {}", said.join("; "))
}

/// Whether a pod of the control plane is of a release.
pub fn is_of(pod: &Pod, release: &Release) -> bool {
    pod.labels().get(labels::REPORT_VERSION) == Some(&release.to_string())
}

/// How often containers of a pod were started again.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.map(|all| all.iter().map(|status| status.restart_count).sum()).unwrap_or_default()
}

/// Whether a pod is Ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
