//! Whether this node can run VMs, and how the node says so. Pure.
//!
//! The label only ever changes for a reason that is known. A handler that has just started
//! doesn't know yet and leaves it as it is: a label that flaps makes a restarting kubelet throw
//! out the launchers that select it.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use kubevirt_types::labels;
use serde_json::{Value, json};

use crate::device::kind::PluginState;

/// Time between two heartbeats, before jitter.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Jitter on top of it, so that a cluster's nodes don't write in step.
const JITTER: Duration = Duration::from_secs(12);

/// Whether this node can run VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// It can.
    Able,
    /// It can't: there is no KVM, and emulation is not allowed.
    Unable,
    /// Not known yet.
    Unknown,
}

/// Decides from the configuration (none until it has been read) and the plugin for KVM.
pub fn ability(use_emulation: Option<bool>, kvm: PluginState) -> Ability {
    match (use_emulation, kvm) {
        (Some(true), _) | (_, PluginState::Registered) => Ability::Able,
        (Some(false), PluginState::Absent) => Ability::Unable,
        (None, PluginState::Absent) | (_, PluginState::Starting) => Ability::Unknown,
    }
}

/// The merge patch of one heartbeat. `pod` is the pod of the handler that writes it: while two handlers stand
/// side by side, this says whose word the label is.
pub fn heartbeat(ability: Ability, pod: &str, now: Timestamp) -> Value {
    let now = now.round(Unit::Second).unwrap_or(now);
    let mut metadata = json!({
        "annotations": { labels::HEARTBEAT: now.to_string(), labels::HANDLER_POD: pod },
    });
    let label = match ability {
        Ability::Able => Some("true"),
        Ability::Unable => Some("false"),
        Ability::Unknown => None,
    };
    if let Some(label) = label {
        metadata["labels"] = json!({ labels::SCHEDULABLE: label });
    }
    json!({ "metadata": metadata })
}

/// How long to wait until the next heartbeat; `seed` is any number.
pub fn wait(seed: u32) -> Duration {
    INTERVAL + JITTER.mul_f64(f64::from(seed % 1000) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_follows_only_what_is_known() {
        use PluginState::{Absent, Registered, Starting};
        let table = [
            (None, Starting, Ability::Unknown),
            (None, Absent, Ability::Unknown),
            (None, Registered, Ability::Able),
            (Some(false), Starting, Ability::Unknown),
            (Some(false), Absent, Ability::Unable),
            (Some(false), Registered, Ability::Able),
            (Some(true), Starting, Ability::Able),
            (Some(true), Absent, Ability::Able),
            (Some(true), Registered, Ability::Able),
        ];
        for (emulation, kvm, expected) in table {
            assert_eq!(ability(emulation, kvm), expected, "{emulation:?} {kvm:?}");
        }
    }

    #[test]
    fn a_heartbeat_names_its_pod_and_leaves_the_label_without_knowledge() {
        let now = "2026-11-23T02:41:14.789Z".parse().unwrap();
        let table = [
            (Ability::Unknown, "virt-handler-a", json!(null)),
            (Ability::Able, "virt-handler-a", json!({"kubevirt.io/schedulable": "true"})),
            (Ability::Unable, "virt-handler-b", json!({"kubevirt.io/schedulable": "false"})),
        ];
        for (ability, pod, node_labels) in table {
            let patch = heartbeat(ability, pod, now);
            assert_eq!(
                patch["metadata"]["annotations"],
                json!({"kubevirt.io/heartbeat": "2026-11-23T02:41:15Z", "kubevirt.io/handler-pod": pod})
            );
            assert_eq!(patch["metadata"]["labels"], node_labels, "{ability:?}");
            assert_eq!(patch.as_object().unwrap().len(), 1, "nothing but metadata is patched");
        }
    }

    #[test]
    fn waits_between_60_and_72_seconds() {
        assert_eq!(wait(0), INTERVAL);
        assert!(wait(u32::MAX) < INTERVAL + JITTER);
    }
}
