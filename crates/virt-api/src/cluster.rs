//! Calls to the Kubernetes API that a request makes, each bounded in time.

use std::time::Duration;

use json_patch::Patch as JsonPatch;
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration};
use serde_json::json;

use crate::lifecycle::Target;

/// The API server itself gives a webhook ten seconds: an answer later than that helps nobody.
const CALL_LIMIT: Duration = Duration::from_secs(8);

/// A call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused, or couldn't be reached.
    #[error("{what}: {source}")]
    Call {
        /// What was tried.
        what: &'static str,
        #[allow(missing_docs)]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{what}: no answer in {} s", CALL_LIMIT.as_secs())]
    Slow {
        /// What was tried.
        what: &'static str,
    },
}

impl ClusterError {
    /// Whether a patch's test failed: what it would change has changed since it was read.
    pub fn is_failed_test(&self) -> bool {
        self.refusal().is_some_and(|status| status.is_conflict() || cannot_be_applied(status))
    }

    /// The API server's own words, when it refused.
    pub fn refusal(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Slow { .. } => None,
        }
    }
}

/// The Kubernetes API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A VM; none when there is none.
    pub async fn vm(&self, namespace: &str, name: &str) -> Result<Option<VirtualMachine>, ClusterError> {
        let api: Api<VirtualMachine> = Api::namespaced(self.client.clone(), namespace);
        bounded("get VirtualMachine", api.get_opt(name)).await
    }

    /// An instance; none when there is none.
    pub async fn vmi(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<VirtualMachineInstance>, ClusterError> {
        let api: Api<VirtualMachineInstance> = Api::namespaced(self.client.clone(), namespace);
        bounded("get VirtualMachineInstance", api.get_opt(name)).await
    }

    /// The migrations of a namespace.
    pub async fn migrations(
        &self,
        namespace: &str,
    ) -> Result<Vec<VirtualMachineInstanceMigration>, ClusterError> {
        let api: Api<VirtualMachineInstanceMigration> = Api::namespaced(self.client.clone(), namespace);
        let listed = bounded("list migrations", api.list(&ListParams::default())).await?;
        Ok(listed.items)
    }

    /// Makes a migration.
    pub async fn create_migration(
        &self,
        namespace: &str,
        migration: &VirtualMachineInstanceMigration,
        dry_run: bool,
    ) -> Result<(), ClusterError> {
        let api: Api<VirtualMachineInstanceMigration> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run, ..PostParams::default() };
        bounded("create VirtualMachineInstanceMigration", api.create(&params, migration)).await.map(drop)
    }

    /// A pod; none when there is none.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        bounded("get pod", api.get_opt(name)).await
    }

    /// Asks for an instance to be moved away from a node, if it is still this instance.
    pub async fn evacuate(
        &self,
        (namespace, name): (&str, &str),
        uid: &str,
        node: &str,
        dry_run: bool,
    ) -> Result<(), ClusterError> {
        let api: Api<VirtualMachineInstance> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams { dry_run, ..PatchParams::default() };
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": {"evacuationNodeName": node}}));
        let patched = api.patch_status(name, &params, &patch);
        bounded("patch status of VirtualMachineInstance", patched).await.map(drop)
    }

    /// Patches a VM, its status, or its instance.
    pub async fn patch(
        &self,
        (namespace, name): (&str, &str),
        target: Target,
        patch: &JsonPatch,
        dry_run: bool,
    ) -> Result<(), ClusterError> {
        let params = PatchParams { dry_run, ..PatchParams::default() };
        let patch: Patch<()> = Patch::Json(patch.clone());
        let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), namespace);
        let vmis: Api<VirtualMachineInstance> = Api::namespaced(self.client.clone(), namespace);
        match target {
            Target::Vm => bounded("patch VirtualMachine", vms.patch(name, &params, &patch)).await.map(drop),
            Target::VmStatus => {
                let patched = vms.patch_status(name, &params, &patch);
                bounded("patch status of VirtualMachine", patched).await.map(drop)
            }
            Target::Vmi => {
                let patched = vmis.patch(name, &params, &patch);
                bounded("patch VirtualMachineInstance", patched).await.map(drop)
            }
        }
    }

    /// Asks whether somebody may do something.
    pub async fn review(
        &self,
        review: &SubjectAccessReview,
    ) -> Result<SubjectAccessReviewStatus, ClusterError> {
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let created = bounded("create SubjectAccessReview", api.create(&params, review)).await?;
        Ok(created.status.unwrap_or_default())
    }

    /// Whether the API server answers.
    pub async fn version(&self) -> Result<String, ClusterError> {
        Ok(bounded("get version", self.client.apiserver_version()).await?.git_version)
    }
}

/// Whether the API server says that a JSON patch doesn't fit the object. It has few words for that: 422 as for an object
/// that is invalid, but without the object's name and the fields.
fn cannot_be_applied(status: &kube::core::Status) -> bool {
    let details = status.details.as_ref();
    status.code == 422 && details.is_none_or(|details| details.name.is_empty() && details.causes.is_empty())
}

async fn bounded<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(result) => result.map_err(|source| ClusterError::Call { what, source: Box::new(source) }),
        Err(_) => Err(ClusterError::Slow { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused((code, reason): (u16, &str), details: &serde_json::Value) -> bool {
        let status = json!({
            "status": "Failure", "reason": reason, "code": code, "details": details,
            "message": "the server rejected our request due to an error in our request",
        });
        let source = Box::new(kube::Error::Api(serde_json::from_value(status).unwrap()));
        ClusterError::Call { what: "patch", source }.is_failed_test()
    }

    /// The answers are those of Kubernetes 1.37.
    #[test]
    fn a_patch_that_does_not_fit_any_more_is_told_from_one_that_is_wrong() {
        let nothing = json!({});
        let fields = json!({"name": "tick", "kind": "VirtualMachine", "causes": [{"field": "spec.running"}]});
        assert!(refused((422, "Invalid"), &nothing));
        assert!(refused((409, "Conflict"), &fields));
        assert!(!refused((422, "Invalid"), &fields));
        assert!(!refused((403, "Forbidden"), &nothing));
    }
}
