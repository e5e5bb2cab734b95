//! The cluster under test: a client, objects of any kind, namespaces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::wait::{self, Look};

/// Label on every namespace that a test makes, so that a later run finds what an aborted one left.
const TEST_LABEL: &str = "e2e.kubevirt.io/test";

/// The registry of the images under test: IMAGE_REGISTRY, which `make images` pushes to on a cluster of one's own.
pub fn registry() -> String {
    std::env::var("IMAGE_REGISTRY")
        .unwrap_or_else(|_| kubevirt_manifests::config::DEFAULT_REGISTRY.to_owned())
}

/// A connection to the cluster in KUBECONFIG.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    root: PathBuf,
}

impl Cluster {
    /// Connects. Requests aren't retried: a request that fails is a failure to be counted.
    pub async fn connect() -> anyhow::Result<Self> {
        let mut config = Config::infer().await.context("no cluster: KUBECONFIG names none")?;
        config.default_retry = false;
        config.read_timeout = None;
        let client = Client::try_from(config)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e has a parent folder")?;
        Ok(Self { client, root: root.to_owned() })
    }

    /// A file of the repository.
    pub fn file(&self, path: &str) -> anyhow::Result<String> {
        let path = self.root.join(path);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The objects of a YAML file of the repository, with images from the registry under test.
    pub fn objects(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let shipped = format!(" {}/virt-", kubevirt_manifests::config::DEFAULT_REGISTRY);
        let text = self.file(path)?.replace(&shipped, &format!(" {}/virt-", registry()));
        serde_saphyr::from_multiple(&text).with_context(|| format!("reading {path} as YAML"))
    }

    /// An Api for objects of any kind, by apiVersion and kind.
    pub async fn api(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> anyhow::Result<Api<DynamicObject>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = pinned_kind(&self.client, &gvk)
            .await
            .with_context(|| format!("the API server knows no {kind} in {api_version}"))?;
        Ok(match (capabilities.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
            (Scope::Namespaced, None) => Api::default_namespaced_with(self.client.clone(), &resource),
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// An Api for one of our kinds in a namespace, which works before the kind is known.
    pub fn ours(&self, kind: kubevirt_types::Kind, namespace: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(kubevirt_types::GROUP, kubevirt_types::VERSIONS[0], kind.name());
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// What `kubectl apply --server-side` does with a file of the repository.
    pub async fn apply_file(&self, path: &str) -> anyhow::Result<()> {
        for object in self.objects(path)? {
            self.apply(&object).await?;
        }
        Ok(())
    }

    /// What `kubectl apply --server-side` does with one object.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let key = kubevirt_types::ObjectKey::of(object).context("an object has apiVersion, kind and name")?;
        wait::until(format!("{key} to be accepted"), Duration::from_secs(60), async || {
            let api = self.api(&key.api_version, &key.kind, key.namespace.as_deref()).await?;
            api.patch(&key.name, &PatchParams::apply("e2e").force(), &Patch::Apply(object)).await?;
            Ok(Look::Done(()))
        })
        .await
    }

    /// Makes a fresh namespace for one test.
    pub async fn namespace(&self, test: &str) -> anyhow::Result<String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {
                "generateName": format!("e2e-{}-", test.replace('_', "-")),
                "labels": {TEST_LABEL: test},
            },
        }))?;
        Ok(api.create(&PostParams::default(), &namespace).await?.name_any())
    }

    /// Removes every namespace that tests have made, and waits for their end.
    pub async fn remove_namespaces(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(TEST_LABEL);
        for namespace in api.list_metadata(&ours).await? {
            if namespace.metadata.deletion_timestamp.is_none() {
                api.delete(&namespace.name_any(), &DeleteParams::background()).await?;
            }
        }
        wait::until("the tests' namespaces to be gone", Duration::from_secs(180), async || {
            let left: Vec<String> =
                api.list_metadata(&ours).await?.iter().map(ResourceExt::name_any).collect();
            wait::when(left.is_empty(), left.join(", "))
        })
        .await
    }
}
