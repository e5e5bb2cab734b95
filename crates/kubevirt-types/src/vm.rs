//! VirtualMachine and VirtualMachineInstanceReplicaSet: what keeps instances alive.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::kind::kind;
use crate::vmi::VirtualMachineInstanceSpec;

kind! {
    /// A virtual machine that can be started and stopped; while it runs, a
    /// VirtualMachineInstance of the same name exists.
    VirtualMachine, "virtualmachines", VirtualMachineSpec, VirtualMachineStatus
}

kind! {
    /// Keeps a number of equal VirtualMachineInstances alive. Since v0.18.0.
    VirtualMachineInstanceReplicaSet, "virtualmachineinstancereplicasets",
    VirtualMachineInstanceReplicaSetSpec, VirtualMachineInstanceReplicaSetStatus
}

/// When a VM's instance should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// An instance always runs; one that ended is started again.
    Always,
    /// No instance runs.
    Halted,
    /// Only start and stop requests decide.
    Manual,
    /// An instance that failed is started again, one that succeeded is not.
    RerunOnFailure,
    /// One instance is started; however it ends, none follows. Since v0.18.0.
    Once,
}

/// What is wanted of a VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Deprecated form of runStrategy: true is Always, false is Halted. Mutually exclusive with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// When the instance should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// What an instance is made from.
    pub template: VirtualMachineInstanceTemplateSpec,
}

impl VirtualMachineSpec {
    /// The run strategy, whichever field says it; Halted where neither does.
    pub fn effective_run_strategy(&self) -> RunStrategy {
        match (self.run_strategy, self.running) {
            (Some(strategy), _) => strategy,
            (None, Some(true)) => RunStrategy::Always,
            (None, Some(false) | None) => RunStrategy::Halted,
        }
    }
}

/// What an instance is made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceTemplateSpec {
    /// Labels and annotations of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::AnyObject>")]
    pub metadata: Option<ObjectMeta>,
    /// Spec of the instance.
    #[serde(default)]
    pub spec: VirtualMachineInstanceSpec,
}

/// What `kubectl get vm` shows in its STATUS column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum PrintableStatus {
    Stopped,
    Provisioning,
    Starting,
    Running,
    Paused,
    Stopping,
    Terminating,
    CrashLoopBackOff,
    Migrating,
    Unknown,
    ErrorUnschedulable,
    ErrImagePull,
    ImagePullBackOff,
}

/// How far a VM is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Whether an instance exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// Whether the instance is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<PrintableStatus>,
    /// Failure, Ready, Paused and what is mirrored from the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Start and stop requests that are not carried out yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_change_requests: Vec<StateChangeRequest>,
    /// Set while starts fail, so that the next one waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_failure: Option<StartFailure>,
    /// The run strategy in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// The generation that the instance was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_generation: Option<i64>,
}

/// Key of a start request's data: `true` starts the instance paused.
pub const START_PAUSED: &str = "paused";

/// A request to start or stop the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateChangeRequest {
    /// What is asked for.
    pub action: StateChangeAction,
    /// For a stop: the uid of the instance that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Options of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<std::collections::BTreeMap<String, String>>,
}

/// What a state change request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum StateChangeAction {
    Start,
    Stop,
}

/// Starts that failed one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// How many.
    #[serde(default)]
    pub consecutive_fail_count: i32,
    /// The instance that failed last.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "lastFailedVMIUID")]
    pub last_failed_vmi_uid: Option<String>,
    /// Not before this is the next one tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub retry_after_timestamp: Option<jiff::Timestamp>,
}

/// What is wanted of a replica set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceReplicaSetSpec {
    /// How many instances: 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Which instances count; must match the template's labels.
    #[schemars(with = "crate::schema::AnyObject")]
    pub selector: LabelSelector,
    /// What instances are made from.
    pub template: VirtualMachineInstanceTemplateSpec,
    /// While true, nothing is created or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// How far a replica set is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceReplicaSetStatus {
    /// How many instances exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// ReplicaFailure, ReplicaPaused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The selector as text, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
}
