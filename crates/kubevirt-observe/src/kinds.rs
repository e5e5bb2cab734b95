//! Every kind that virt-operator reads or writes: where it is served, and what of it is watched.
//!
//! Only a table. A kind that isn't in it can't be applied, and the error says so.

use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use kubevirt_types::{GROUP, Kind, ObjectKey};

/// Which objects of a kind are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The kind is cluster-scoped.
    Cluster,
    /// The kind is namespaced; only the install namespace is watched.
    Install,
    /// The kind is namespaced; every namespace is watched.
    Everywhere,
}

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub struct KindRow {
    /// Group and version.
    pub api_version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Its name in URLs.
    pub plural: &'static str,
    /// Where it is watched.
    pub scope: Scope,
    /// The label selector of the watch; empty for every object.
    pub selector: &'static str,
}

const MANAGED: &str = "app.kubernetes.io/managed-by=virt-operator";
const COMPONENT_PODS: &str =
    "kubevirt.io in (virt-api,virt-controller,virt-handler,virt-operator-strategy-dumper)";

const fn row(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    selector: &'static str,
) -> KindRow {
    KindRow { api_version, kind, plural, scope, selector }
}

/// The KubeVirt object.
pub const KUBEVIRT: &str = "KubeVirt";
/// Pods of the components and of the install strategy's Job.
pub const POD: &str = "Pod";
/// Nodes.
pub const NODE: &str = "Node";
/// Leases, of which the version reports are watched.
pub const LEASE: &str = "Lease";
/// Jobs, of which the install strategies' are watched.
pub const JOB: &str = "Job";
/// ConfigMaps: the CA bundle and the install strategies.
pub const CONFIG_MAP: &str = "ConfigMap";
/// Secrets: the CA and the leaf certificates.
pub const SECRET: &str = "Secret";

/// DaemonSets: virt-handler's.
pub const DAEMON_SET: &str = "DaemonSet";
/// CustomResourceDefinitions.
pub const CRD: &str = "CustomResourceDefinition";
/// ValidatingAdmissionPolicies: the guard against new kinds.
pub const ADMISSION_POLICY: &str = "ValidatingAdmissionPolicy";

/// The table. A kind stands in it once.
pub const KINDS: &[KindRow] = &[
    row("kubevirt.io/v1", KUBEVIRT, "kubevirts", Scope::Everywhere, ""),
    row("v1", POD, "pods", Scope::Install, COMPONENT_PODS),
    row("v1", NODE, "nodes", Scope::Cluster, ""),
    row("coordination.k8s.io/v1", LEASE, "leases", Scope::Install, "kubevirt.io/component"),
    row("batch/v1", JOB, "jobs", Scope::Install, "kubevirt.io/install-strategy"),
    row("v1", CONFIG_MAP, "configmaps", Scope::Install, MANAGED),
    row("v1", SECRET, "secrets", Scope::Install, MANAGED),
    row("v1", "Service", "services", Scope::Install, MANAGED),
    row("v1", "ServiceAccount", "serviceaccounts", Scope::Install, MANAGED),
    row("apps/v1", "Deployment", "deployments", Scope::Install, MANAGED),
    row("apps/v1", DAEMON_SET, "daemonsets", Scope::Install, MANAGED),
    row("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", Scope::Install, MANAGED),
    row("rbac.authorization.k8s.io/v1", "Role", "roles", Scope::Install, MANAGED),
    row("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", Scope::Everywhere, MANAGED),
    row("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", Scope::Cluster, MANAGED),
    row("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", Scope::Cluster, MANAGED),
    row("apiextensions.k8s.io/v1", CRD, "customresourcedefinitions", Scope::Cluster, MANAGED),
    row("apiregistration.k8s.io/v1", "APIService", "apiservices", Scope::Cluster, MANAGED),
    row(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        Scope::Cluster,
        MANAGED,
    ),
    row(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        Scope::Cluster,
        MANAGED,
    ),
    row(
        "admissionregistration.k8s.io/v1",
        ADMISSION_POLICY,
        "validatingadmissionpolicies",
        Scope::Cluster,
        MANAGED,
    ),
    row(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        Scope::Cluster,
        MANAGED,
    ),
];

impl KindRow {
    /// What kube needs to know of the kind.
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.rsplit_once('/').unwrap_or(("", self.api_version));
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: self.api_version.to_owned(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The API of the objects that are watched.
    pub fn watched_api(&self, client: Client, install_namespace: &str) -> Api<DynamicObject> {
        match self.scope {
            Scope::Cluster | Scope::Everywhere => Api::all_with(client, &self.resource()),
            Scope::Install => Api::namespaced_with(client, install_namespace, &self.resource()),
        }
    }

    /// The URL of all objects of this kind in a namespace, or in the cluster.
    pub fn url(&self, namespace: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        match namespace {
            Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural),
            None => format!("{root}/{}/{}", self.api_version, self.plural),
        }
    }
}

/// The one CRD that is no part of a release: it is applied with the operator, and yet objects are stored through it.
pub fn never_labelled() -> [ObjectKey; 1] {
    let name = format!("{}.{GROUP}", Kind::KubeVirt.plural());
    [ObjectKey::cluster("apiextensions.k8s.io/v1", CRD, &name)]
}

/// The row of an object's kind.
pub fn find(key: &ObjectKey) -> Option<&'static KindRow> {
    KINDS.iter().find(|row| row.kind == key.kind && row.api_version == key.api_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_stands_in_the_table_once() {
        for (i, row) in KINDS.iter().enumerate() {
            assert!(KINDS[..i].iter().all(|other| other.kind != row.kind), "{}", row.kind);
        }
    }

    #[test]
    fn urls_are_those_of_the_api_server() {
        let url = |key: &ObjectKey| find(key).unwrap().url(key.namespace.as_deref());
        assert_eq!(url(&ObjectKey::namespaced("v1", "Secret", "ns", "a")), "/api/v1/namespaces/ns/secrets");
        assert_eq!(
            url(&ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "a")),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        );
    }
}
