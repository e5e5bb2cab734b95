//! How far an instance is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Machine;
use crate::condition::Condition;
use crate::migration::MigrationState;

/// Phase of an instance. virt-controller moves it up to Scheduled, virt-handler from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VmiPhase {
    /// Nobody has looked at it yet.
    #[serde(rename = "")]
    #[default]
    Unset,
    /// Accepted, no launcher pod yet.
    Pending,
    /// The launcher pod exists.
    Scheduling,
    /// The launcher pod is ready on a node; virt-handler takes over.
    Scheduled,
    /// QEMU runs.
    Running,
    /// The guest shut down, or was stopped.
    Succeeded,
    /// It ended in a way that nobody asked for.
    Failed,
    /// Nobody can tell; never a reason to act.
    Unknown,
}

impl VmiPhase {
    /// Whether the instance has ended for good.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Unset
            | Self::Pending
            | Self::Scheduling
            | Self::Scheduled
            | Self::Running
            | Self::Unknown => false,
        }
    }
}

/// How far an instance is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceStatus {
    /// Where it is in its life.
    #[serde(default)]
    pub phase: VmiPhase,
    /// When each phase was reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_transition_timestamps: Vec<PhaseTransition>,
    /// The node that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Why it is in this phase, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Ready, LiveMigratable, Paused, Synchronized, Provisioning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Network interfaces as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceStatus>,
    /// Launcher pods that are not over: uid to node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub active_pods: BTreeMap<String, String>,
    /// The image of the launcher pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher_container_image_version: Option<String>,
    /// Quality of service class of the launcher pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_class: Option<String>,
    /// The user that QEMU runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_user: Option<u64>,
    /// The machine that QEMU runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// The node that is being drained under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evacuation_node_name: Option<String>,
    /// The last migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<MigrationState>,
}

/// When a phase was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTransition {
    #[allow(missing_docs)]
    pub phase: VmiPhase,
    #[allow(missing_docs)]
    #[schemars(with = "crate::schema::DateTime")]
    pub phase_transition_timestamp: jiff::Timestamp,
}

/// A network interface as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// Name in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The address at which others reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<String>,
    /// Where this is known from, such as `domain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_source: Option<String>,
}
