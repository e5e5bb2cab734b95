//! The status of a VMI as it should be, and the patch that gets it there.
//!
//! Pure. Touches only what is virt-handler's: phase, transitions, node, interfaces, machine,
//! reason and its own conditions; everything else is carried over as it was.

use jiff::Timestamp;
use kubevirt_types::VmiPhase;
use kubevirt_types::condition::{self, Condition};
use kubevirt_types::vmi::{
    InterfaceStatus, Machine, PhaseTransition, VirtualMachineInstance, VirtualMachineInstanceStatus,
};
use serde_json::{Map, Value, json};

use super::decide::PodFacts;
use super::knowledge::{Domain, DomainState};

/// The name of the interface that a VMI without any gets on the pod network.
pub const DEFAULT_INTERFACE: &str = "default";

/// The status of a VMI whose guest has not been started.
pub fn waiting(vmi: &VirtualMachineInstance, now: Timestamp) -> VirtualMachineInstanceStatus {
    let mut status = vmi.status.clone().unwrap_or_default();
    condition::set(&mut status.conditions, not_ready(), now);
    status
}

/// The status of a VMI whose guest runs or is paused.
pub fn running(
    vmi: &VirtualMachineInstance,
    node: &str,
    domain: &Domain,
    pod: Option<&PodFacts>,
    now: Timestamp,
) -> VirtualMachineInstanceStatus {
    let mut status = vmi.status.clone().unwrap_or_default();
    enter(&mut status, VmiPhase::Running, now);
    status.node_name = Some(node.to_owned());
    status.reason = None;
    status.machine = if domain.machine_type.is_empty() {
        vmi.spec.domain.machine.clone().or(status.machine)
    } else {
        Some(Machine { type_: Some(domain.machine_type.clone()) })
    };
    if pod.is_some_and(|pod| !pod.ips.is_empty()) || status.interfaces.is_empty() {
        status.interfaces = interfaces(vmi, domain, pod);
    }
    let conditions = &mut status.conditions;
    condition::remove(conditions, "Synchronized");
    condition::set(conditions, migratable(domain), now);
    if domain.state == DomainState::Paused {
        // QEMU pauses a guest by itself when its disk can't be written
        let (reason, message) = if domain.reason == "PausedByQemu" {
            ("PausedIOError", "VMI was paused, IO error")
        } else {
            ("PausedByUser", "VMI was paused by user")
        };
        condition::set(conditions, Condition::new("Paused", true, reason, message), now);
        condition::set(conditions, Condition::new("Ready", false, reason, message), now);
        return status;
    }
    condition::remove(conditions, "Paused");
    let ready = if pod.is_some_and(|pod| pod.deleting) {
        Condition::new("Ready", false, "PodTerminating", "virt-launcher pod is terminating")
    } else {
        Condition::new("Ready", true, "", "")
    };
    condition::set(conditions, ready, now);
    status
}

/// The status of a VMI whose guest is over.
pub fn ended(
    vmi: &VirtualMachineInstance,
    phase: VmiPhase,
    reason: &str,
    now: Timestamp,
) -> VirtualMachineInstanceStatus {
    let mut status = vmi.status.clone().unwrap_or_default();
    enter(&mut status, phase, now);
    status.reason = Some(reason.to_owned()).filter(|r| !r.is_empty());
    condition::remove(&mut status.conditions, "Paused");
    condition::set(&mut status.conditions, not_ready(), now);
    status
}

/// The status of a VMI that its launcher could not be made to run.
pub fn sync_failed(
    vmi: &VirtualMachineInstance,
    error: &str,
    now: Timestamp,
) -> VirtualMachineInstanceStatus {
    let mut status = vmi.status.clone().unwrap_or_default();
    condition::set(
        &mut status.conditions,
        Condition::new("Synchronized", false, "Synchronizing with the Domain failed.", error),
        now,
    );
    status
}

fn not_ready() -> Condition {
    Condition::new("Ready", false, "GuestNotRunning", "Guest VM is not reported as running")
}

/// Whether the guest can be moved while it runs.
fn migratable(domain: &Domain) -> Condition {
    let (yes, reason, message) = if !domain.can_move {
        let message =
            "the virtual machine was started by a release that can't move it: it can once it is restarted";
        (false, "LauncherNotLiveMigratable", message)
    } else if domain.not_migratable.is_empty() {
        (true, "", "")
    } else {
        (false, "DisksNotLiveMigratable", domain.not_migratable.as_str())
    };
    Condition::new("LiveMigratable", yes, reason, message)
}

/// Moves to a phase and notes when it was first reached.
fn enter(status: &mut VirtualMachineInstanceStatus, phase: VmiPhase, now: Timestamp) {
    status.phase = phase;
    if !status.phase_transition_timestamps.iter().any(|t| t.phase == phase) {
        status.phase_transition_timestamps.push(PhaseTransition { phase, phase_transition_timestamp: now });
    }
}

/// The interfaces of the spec, with what launcher and pod know of them. Guests sit behind
/// their pod's address.
fn interfaces(vmi: &VirtualMachineInstance, domain: &Domain, pod: Option<&PodFacts>) -> Vec<InterfaceStatus> {
    let devices = &vmi.spec.domain.devices;
    let mut named: Vec<(String, Option<String>)> =
        devices.interfaces.iter().map(|i| (i.name.clone(), i.mac_address.clone())).collect();
    if named.is_empty() && devices.autoattach_pod_interface != Some(false) {
        named.push((DEFAULT_INTERFACE.to_owned(), None));
    }
    let ips = pod.map(|pod| pod.ips.clone()).unwrap_or_default();
    named
        .into_iter()
        .map(|(name, mac)| {
            let reported = domain.interfaces.iter().find(|i| i.name == name).map(|i| i.mac.clone());
            InterfaceStatus {
                mac: reported.filter(|mac| !mac.is_empty()).or(mac),
                name: Some(name),
                ip_address: ips.first().cloned(),
                ip_addresses: ips.clone(),
                info_source: Some("domain".to_owned()),
            }
        })
        .collect()
}

/// The JSON merge patch that turns the status of `vmi` into `wanted`, refused by the API server
/// when somebody else wrote in between. None when there is nothing to change.
pub fn patch(vmi: &VirtualMachineInstance, wanted: &VirtualMachineInstanceStatus) -> Option<Value> {
    let before = serde_json::to_value(vmi.status.clone().unwrap_or_default()).ok()?;
    let after = serde_json::to_value(wanted).ok()?;
    let difference = difference(&before, &after)?;
    let mut metadata = Map::new();
    if let Some(version) = &vmi.metadata.resource_version {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    if let Some(uid) = &vmi.metadata.uid {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    Some(json!({ "metadata": metadata, "status": difference }))
}

/// The merge patch between two values; lists are replaced whole.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return (before != after).then(|| after.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        let change = match old.get(key) {
            Some(was) => difference(was, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}
