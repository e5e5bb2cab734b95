//! VirtualMachineInstanceMigration, and what it leaves in the status of the instance that moves.
//!
//! The status of the instance is the one place where a migration's parties meet: each field of
//! [`MigrationState`] has one writer, named with it, and a party that restarts finds there all
//! that it has to know. Names are KubeVirt's where KubeVirt has one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::kind::kind;
use crate::quantity::Quantity;

kind! {
    /// The wish to move a VirtualMachineInstance to another node while it runs.
    VirtualMachineInstanceMigration, "virtualmachineinstancemigrations",
    VirtualMachineInstanceMigrationSpec, VirtualMachineInstanceMigrationStatus
}

impl VirtualMachineInstanceMigration {
    /// Where it is, as its status says.
    pub fn phase(&self) -> MigrationPhase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }
}

/// Seconds for each GiB of memory after which a migration is given up when nobody says.
pub const DEFAULT_COMPLETION_TIMEOUT_PER_GIB: u64 = 150;
/// Seconds without progress after which a migration is given up when nobody says.
pub const DEFAULT_PROGRESS_TIMEOUT: u64 = 150;
/// Migrations that run at the same time in a cluster when nobody says.
pub const DEFAULT_PARALLEL_PER_CLUSTER: u32 = 5;
/// Migrations that leave a node at the same time when nobody says.
pub const DEFAULT_PARALLEL_OUTBOUND_PER_NODE: u32 = 2;

/// What is wanted of a migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationSpec {
    /// The instance to move, in the same namespace.
    #[serde(default)]
    pub vmi_name: String,
    /// Labels that the target's node must have, beyond what the instance asks for. Where the instance has a
    /// selector of the same key, that one counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_node_selector: BTreeMap<String, String>,
}

/// Where a migration is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationPhase {
    /// Nobody has looked at it yet.
    #[serde(rename = "")]
    #[default]
    Unset,
    /// It waits for its turn.
    Pending,
    /// The target pod exists.
    Scheduling,
    /// The target pod is ready on a node.
    Scheduled,
    /// The instance says where it goes; the two virt-handlers prepare their launchers.
    PreparingTarget,
    /// The target listens.
    TargetReady,
    /// The guest's memory is copied.
    Running,
    /// The guest runs at the target.
    Succeeded,
    /// The guest has not moved.
    Failed,
}

impl MigrationPhase {
    /// Whether the migration is over for good.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Unset
            | Self::Pending
            | Self::Scheduling
            | Self::Scheduled
            | Self::PreparingTarget
            | Self::TargetReady
            | Self::Running => false,
        }
    }

    /// How far along the road it is. A migration never goes back.
    pub fn rank(self) -> u8 {
        match self {
            Self::Unset => 0,
            Self::Pending => 1,
            Self::Scheduling => 2,
            Self::Scheduled => 3,
            Self::PreparingTarget => 4,
            Self::TargetReady => 5,
            Self::Running => 6,
            Self::Succeeded | Self::Failed => 7,
        }
    }
}

/// How far a migration is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationStatus {
    /// Where it is.
    #[serde(default)]
    pub phase: MigrationPhase,
    /// When each phase was reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_transition_timestamps: Vec<MigrationPhaseTransition>,
    /// What it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The instance's state of this migration, kept when the instance has gone on to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<MigrationState>,
}

/// When a phase was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPhaseTransition {
    #[allow(missing_docs)]
    pub phase: MigrationPhase,
    #[allow(missing_docs)]
    #[schemars(with = "crate::schema::DateTime")]
    pub phase_transition_timestamp: jiff::Timestamp,
}

/// What has become of the wish to abort a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AbortStatus {
    /// The guest stays where it was.
    Succeeded,
    /// It came too late: the guest was handed over.
    Failed,
}

/// How a guest moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationMode {
    /// Memory is copied while the guest runs at the source.
    PreCopy,
}

/// The last migration of an instance.
///
/// "The controller" is virt-controller, "the source" and "the target" are the virt-handlers of the
/// two nodes. The first group is written when the target pod is ready, and replaces the whole state
/// of an earlier migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationState {
    /// uid of the VirtualMachineInstanceMigration. By the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub migration_uid: String,
    /// Where the guest is. By the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_node: String,
    /// Name of the launcher pod that has the guest. By the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_pod: String,
    /// Where the guest goes. By the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target_node: String,
    /// Name of the launcher pod that gets the guest. By the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target_pod: String,
    /// The limits, as they were when it began. By the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_configuration: Option<MigrationConfiguration>,
    /// Somebody wants it to end. By the controller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort_requested: bool,
    /// When the target pod was first missed; what ran in it has the pod's grace period to end. By the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub target_pod_missing_timestamp: Option<jiff::Timestamp>,

    /// Fingerprint of the source launcher's certificate. By the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_certificate_sha256: Option<String>,
    /// Fingerprint of the target launcher's certificate. By the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_certificate_sha256: Option<String>,
    /// IP address of the target pod. By the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_address: Option<String>,
    /// TCP port at which the target launcher listens. By the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u32>,

    /// When the source launcher began. By the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub start_timestamp: Option<jiff::Timestamp>,
    /// When it was over. By whoever writes `completed` or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub end_timestamp: Option<jiff::Timestamp>,
    /// When the target let the guest run. By the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub target_node_domain_ready_timestamp: Option<jiff::Timestamp>,
    /// How it moves. By the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MigrationMode>,
    /// How far it is. By the source, no more often than every few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<MigrationProgress>,
    /// How long the guest stood, as the source's QEMU says. By the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_milliseconds: Option<u64>,

    /// The guest runs at the target. Final. By the target, together with the instance's nodeName.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completed: bool,
    /// The guest has not moved. Final. By the source when its launcher says so, and by the
    /// controller when the target pod has certainly ended without `completed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Why it failed. By whoever writes `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// What has become of `abortRequested`. By the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_status: Option<AbortStatus>,
}

impl MigrationState {
    /// Whether it is over for good.
    pub fn is_final(&self) -> bool {
        self.completed || self.failed
    }
}

/// How far the copy of a guest's memory is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationProgress {
    /// Bytes of the guest's memory.
    pub total_bytes: u64,
    /// Bytes still to be copied.
    pub remaining_bytes: u64,
    /// Bytes copied, counting again what was written again.
    pub transferred_bytes: u64,
    /// Bytes per second that the guest writes anew.
    pub dirty_bytes_per_second: u64,
    /// By how much the guest is slowed down to converge.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub throttle_percentage: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The limits of migrations; a field's absence is its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationConfiguration {
    /// Migrations at the same time in the cluster: 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub parallel_migrations_per_cluster: Option<u32>,
    /// Migrations that leave a node at the same time: 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub parallel_outbound_migrations_per_node: Option<u32>,
    /// Bytes per second of one migration, such as 64Mi; 0, the default, is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// A migration is given up after so many seconds for each GiB of memory: 150 by default, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "completionTimeoutPerGiB")]
    pub completion_timeout_per_gib: Option<u64>,
    /// A migration is given up after so many seconds without progress: 150 by default, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_timeout: Option<u64>,
    /// Slow guests down that write faster than the network carries: false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
}
