//! The KubeVirt object: what version a cluster should run, how, and how far that is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::kind::kind;
use crate::migration::MigrationConfiguration;

kind! {
    /// One KubeVirt installation. Only one may exist in a cluster.
    KubeVirt, "kubevirts", KubeVirtSpec, KubeVirtStatus
}

/// What is wanted of an installation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtSpec {
    /// The release to run, such as v0.18.0. Without imageTag and imageRegistry the version is
    /// locked to the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tag: Option<String>,
    /// The registry of the images; the operator's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_registry: Option<String>,
    /// Pull policy of the control plane's images: IfNotPresent by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// What happens to workloads when this object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uninstall_strategy: Option<UninstallStrategy>,
    /// Durations of the certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_rotate_strategy: Option<CertificateRotateStrategy>,
    /// Configuration of the components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<KubeVirtConfiguration>,
    /// How the control plane is updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// Changes to the control plane's own Deployments and DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customize_components: Option<CustomizeComponents>,
}

/// How the control plane is updated. KubeVirt has nothing like it: its updates that fail stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// What happens when new pods of the control plane fail: Rollback by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// For how many seconds the first new pod of a component must have been ready before the next one is replaced:
    /// 40 by default, 3600 at most. What crashes later than after twice that can have reached a second node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub soak_seconds: Option<u32>,
    /// For how many seconds a virt-api or virt-handler that has a successor goes on carrying consoles, screens and tunnels:
    /// 3600 by default, 86400 at most. Those that are left then are told to come again. Changing it replaces the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86400))]
    pub drain_seconds: Option<u32>,
}

/// What happens to an update that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// The previous version comes back.
    #[default]
    Rollback,
    /// It stops where it is, until somebody changes the spec.
    Pause,
}

/// Changes to the control plane's own Deployments and DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomizeComponents {
    /// Patches, carried out in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<CustomizePatch>,
    /// Command line flags that are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<CustomizeFlags>,
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomizePatch {
    /// Deployment or DaemonSet.
    pub resource_type: String,
    /// virt-api, virt-controller, virt-handler, or * for all of the type.
    pub resource_name: String,
    /// The patch, as JSON or YAML text.
    pub patch: String,
    /// How it is written: strategic by default.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub type_: Option<PatchType>,
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PatchType {
    /// JSON patch, RFC 6902.
    Json,
    /// JSON merge patch, RFC 7396.
    Merge,
    /// Kubernetes' strategic merge patch.
    #[default]
    Strategic,
}

/// Command line flags by component, such as `{"v": "4"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomizeFlags {
    /// Of virt-api.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub api: BTreeMap<String, String>,
    /// Of virt-controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controller: BTreeMap<String, String>,
    /// Of virt-handler.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub handler: BTreeMap<String, String>,
}

/// What happens to workloads at uninstall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UninstallStrategy {
    #[allow(missing_docs)]
    RemoveWorkloads,
    #[allow(missing_docs)]
    BlockUninstallIfWorkloadsExist,
}

/// How certificates are rotated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRotateStrategy {
    /// Certificates signed by the operator's own CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSigned>,
}

/// Durations of self-signed certificates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfSigned {
    /// The CA: 168h by default, renewed when 20% is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertConfig>,
    /// The leaves: 24h by default, renewed when 20% is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<CertConfig>,
}

/// Duration of one certificate, as Go durations such as 24h0m0s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertConfig {
    /// How long it is valid: whole seconds, at least 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How long before its end it is renewed: at least 5m, and at least 5m less than the duration. 20% of the duration by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<String>,
}

/// Configuration of the components.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtConfiguration {
    /// Switches that are not for production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub developer_configuration: Option<DeveloperConfiguration>,
    /// Pull policy of images that VMs name: IfNotPresent by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// QEMU machine type of VMs that name none: q35 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Limits of live migrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<MigrationConfiguration>,
}

/// Switches that are not for production.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeveloperConfiguration {
    /// Run guests with QEMU's TCG where the node has no working /dev/kvm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_emulation: Option<bool>,
    /// Names of features to switch on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<String>,
    /// Verbosity of each component's logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_verbosity: Option<BTreeMap<String, u32>>,
}

impl KubeVirtSpec {
    /// Whether guests may run without KVM.
    pub fn use_emulation(&self) -> bool {
        self.configuration
            .as_ref()
            .and_then(|c| c.developer_configuration.as_ref())
            .and_then(|d| d.use_emulation)
            .unwrap_or(false)
    }
}

/// Phase of an installation. It stays `Deployed` during an update, as KubeVirt's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KubeVirtPhase {
    #[allow(missing_docs)]
    Deploying,
    #[allow(missing_docs)]
    Deployed,
    #[allow(missing_docs)]
    Deleting,
    #[allow(missing_docs)]
    Deleted,
}

/// How far an installation is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtStatus {
    /// Where the installation is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<KubeVirtPhase>,
    /// Synchronized (only when False), Created, Available, Progressing, Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The release of the operator that wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,
    /// The registry that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_kube_virt_registry: Option<String>,
    /// The release that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_kube_virt_version: Option<String>,
    /// All that the wanted manifests are made from, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_deployment_config: Option<String>,
    /// Hash of the wanted deployment config.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "targetDeploymentID")]
    pub target_deployment_id: Option<String>,
    /// The registry that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_kube_virt_registry: Option<String>,
    /// The release that runs; moves only when an update is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_kube_virt_version: Option<String>,
    /// The deployment config that runs, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_deployment_config: Option<String>,
    /// Hash of the deployment config that runs.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "observedDeploymentID")]
    pub observed_deployment_id: Option<String>,
    /// The generation of the spec that is carried out completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Generation of every managed object whose spec is compared, when it was last applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<GenerationStatus>,
    /// The version gate: what may be used, and who holds it shut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_gate: Option<crate::gate::GateStatus>,
    /// The target that failed; there until the spec names another, or somebody asks for another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_update: Option<FailedUpdate>,
    /// The last updates, newest last, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<UpdateRecord>,
}

/// The generation of one managed object when it was last applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationStatus {
    #[allow(missing_docs)]
    pub group: String,
    #[allow(missing_docs)]
    pub resource: String,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[allow(missing_docs)]
    pub name: String,
    /// metadata.generation after the last apply.
    pub last_generation: i64,
    /// Hash of the manifest that was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// One update, rollback or installation that is over or going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRecord {
    /// The release before; none for an installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release that was wanted.
    pub to: String,
    /// When its first step was taken.
    #[schemars(with = "crate::schema::DateTime")]
    pub started: jiff::Timestamp,
    /// When it was over; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub completed: Option<jiff::Timestamp>,
    /// Why it was given up; none of one that goes on, or came to its end. Said of one that was superseded too: who doesn't
    /// know `supersededBy` must not take it for done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The release that was wanted instead before this one was reached; none of one that wasn't given up for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// Its report in short, as of when that was stored last; none for an installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportSummary>,
}

/// What an update's report says, in short. The whole is in a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportSummary {
    /// The ConfigMap with the whole report, in the install namespace. The last five are kept.
    pub config_map: String,
    /// How long the update has taken, in seconds; with the way back, where it failed.
    pub seconds: u64,
    /// Requests with which the operator itself has asked all along.
    pub requests: u64,
    /// How many of them failed.
    pub failed_requests: u64,
    /// The longest time between two answers that were as they should be.
    pub longest_gap_milliseconds: u64,
    /// For how long nobody has asked, because no operator led.
    pub unobserved_milliseconds: u64,
    /// The longest time without a leading virt-controller or virt-operator.
    pub longest_leader_gap_milliseconds: u64,
    /// Live migrations that were in flight at some time; those that outlasted the update too.
    pub migrations: u64,
    /// How many of them failed.
    pub migrations_failed: u64,
    /// Times that a console or screen was carried over the end of a virt-handler or a virt-api.
    pub sessions_carried: u64,
    /// Consoles and screens that could not be resumed.
    pub sessions_cut: u64,
    /// Consoles and screens whose virt-api was lost under them; none in reports of operators that didn't look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_lost: Option<u64>,
    /// The longest time that a console or screen that went on had no virt-handler; none where no virt-api says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_session_gap_milliseconds: Option<u64>,
}

/// A target whose pods failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedUpdate {
    /// The deployment id of the target.
    #[serde(rename = "deploymentID")]
    pub deployment_id: String,
    /// Its release.
    pub version: String,
    /// The component that failed.
    pub component: String,
    /// The node on which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What failed.
    pub cause: String,
    /// When that was noticed.
    #[schemars(with = "crate::schema::DateTime")]
    pub at: jiff::Timestamp,
    /// What is done about it.
    pub action: OnFailure,
    /// The value of annotation `kubevirt.io/retry-update` at that time: another one is another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}
