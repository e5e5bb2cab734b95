//! Reads what there is.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use kubevirt_types::KubeVirt;
use kubevirt_types::labels::APP;

use super::progress::{COMPONENTS, OPERATOR, Seen};

/// The KubeVirt object; none where there is none, or not even its kind.
pub(super) async fn installation(client: &Client) -> Result<Option<KubeVirt>, kube::Error> {
    let all: Api<KubeVirt> = Api::all(client.clone());
    let installations = match all.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        other => other?,
    };
    // The operator refuses a second one, so the oldest is the one.
    Ok(installations.items.into_iter().min_by_key(|kv| kv.metadata.creation_timestamp.clone()))
}

/// The installation; none where there is no KubeVirt object.
pub(super) async fn observe(client: &Client) -> Result<Option<Seen>, kube::Error> {
    let Some(kubevirt) = installation(client).await? else { return Ok(None) };
    let everywhere = ListParams::default();
    let namespace = kubevirt.namespace().to_owned();
    let names = format!("{APP} in ({},{OPERATOR})", COMPONENTS.join(","));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let daemon_sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let labelled = ListParams::default().labels(&names);
    let (deployments, daemon_sets, pods) =
        tokio::try_join!(deployments.list(&everywhere), daemon_sets.list(&everywhere), pods.list(&labelled))?;
    Ok(Some(Seen {
        kubevirt,
        deployments: deployments.items,
        daemon_sets: daemon_sets.items,
        pods: pods.items,
    }))
}
