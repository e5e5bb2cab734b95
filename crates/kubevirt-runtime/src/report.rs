//! The version report: a Lease that says which release this pod runs, and goes with the pod.
//!
//! Who reads the reports, and what follows, is `kubevirt_types::gate`'s business.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use kubevirt_types::Release;
use kubevirt_types::labels::{REPORT_COMPONENT, REPORT_VERSION};
use tokio::time::{sleep, timeout};

use crate::pod::Identity;
use crate::shutdown::Shutdown;

/// Readers need no expiry, so this only repairs what somebody deleted; at 5,000 nodes it costs 8 writes a second.
const RENEWAL: Duration = Duration::from_secs(600);
/// The gate is shut until we have reported: a failed report is tried again soon.
const RETRY: Duration = Duration::from_secs(2);
/// A call that takes longer is given up and tried again.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Keeps this pod's version report until shutdown.
pub async fn keep(client: Client, component: &str, release: Release, pod: Identity, shutdown: Shutdown) {
    let name = format!("version-report-{}", pod.pod_name);
    let work = async {
        loop {
            let pause = match timeout(CALL_LIMIT, write(&client, &name, component, &release, &pod)).await {
                Ok(Ok(())) => RENEWAL,
                Ok(Err(error)) => {
                    tracing::warn!(lease = name, %error, "can't report the version");
                    RETRY
                }
                Err(_) => {
                    tracing::warn!(lease = name, "reporting the version took too long");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    };
    tokio::select! {
        () = shutdown.wait() => (),
        () = work => (),
    }
}

async fn write(
    client: &Client,
    name: &str,
    component: &str,
    release: &Release,
    pod: &Identity,
) -> Result<(), kube::Error> {
    let uid = match &pod.pod_uid {
        Some(uid) => uid.clone(),
        None => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
            pods.get(&pod.pod_name).await?.metadata.uid.unwrap_or_default()
        }
    };
    let api: Api<Lease> = Api::namespaced(client.clone(), &pod.namespace);
    let lease = lease(name, component, release, pod, uid, jiff::Timestamp::now());
    api.patch(name, &PatchParams::apply(component).force(), &Patch::Apply(&lease)).await?;
    Ok(())
}

fn lease(
    name: &str,
    component: &str,
    release: &Release,
    pod: &Identity,
    uid: String,
    now: jiff::Timestamp,
) -> Lease {
    let label = |key: &str, value: String| (key.to_owned(), value);
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                [label(REPORT_COMPONENT, component.to_owned()), label(REPORT_VERSION, release.to_string())]
                    .into(),
            ),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: pod.pod_name.clone(),
                uid,
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(pod.pod_name.clone()),
            lease_duration_seconds: i32::try_from(RENEWAL.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_owned_by_its_pod_and_labelled() {
        let pod = Identity {
            pod_name: "virt-api-1".into(),
            namespace: "kubevirt".into(),
            node_name: "n".into(),
            pod_ip: "10.0.0.1".into(),
            pod_uid: None,
        };
        let lease = lease(
            "version-report-virt-api-1",
            "virt-api",
            &Release::V0_18_0,
            &pod,
            "u-1".into(),
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert_eq!(
            serde_json::to_value(lease).unwrap(),
            serde_json::json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {
                    "name": "version-report-virt-api-1",
                    "labels": {"kubevirt.io/component": "virt-api", "kubevirt.io/version": "v0.18.0"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "virt-api-1", "uid": "u-1"}],
                },
                "spec": {
                    "holderIdentity": "virt-api-1", "leaseDurationSeconds": 600,
                    "renewTime": "1970-01-01T00:00:00.000000Z",
                },
            })
        );
    }
}
