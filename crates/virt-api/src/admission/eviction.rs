//! What an eviction of a launcher pod does: a guest that is to be moved is moved, not killed.
//!
//! Pure. A review comes from the API server without a certificate, so anybody in the cluster's network can send one:
//! all that it can bring about is that a guest moves which may be moved at any time. `kubectl drain` takes "429 Too Many Requests" for "not now" and asks again until the pod is gone.

use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::condition::ConditionStatus;
use kubevirt_types::vmi::EvictionStrategy;
use kubevirt_types::{VirtualMachineInstance, VmiPhase, labels};

/// The path of the hook, as the webhook configuration names it.
pub const EVICTION_PATH: &str = "/pod-eviction-validate";

/// The answer to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The pod may go.
    Allow,
    /// Not now.
    Deny(String),
    /// Not now, and the instance is to be moved away from this node.
    Evacuate {
        /// The node.
        node: String,
        /// What is said.
        message: String,
    },
}

/// The name of the instance whose launcher this pod is; none of other pods.
pub fn instance_of(pod: &Pod) -> Option<&str> {
    let is_launcher = pod.metadata.labels.as_ref()?.get(labels::APP)? == "virt-launcher";
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut owners = owners.filter(|o| o.controller == Some(true) && o.kind == "VirtualMachineInstance");
    owners.next().filter(|_| is_launcher).map(|owner| owner.name.as_str())
}

/// Answers.
pub fn answer(pod: &Pod, vmi: Option<&VirtualMachineInstance>) -> Answer {
    let over = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let (Some(vmi), false) = (vmi, matches!(over, Some("Succeeded" | "Failed"))) else {
        return Answer::Allow;
    };
    let owned = pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == vmi.uid());
    let status = vmi.status.clone().unwrap_or_default();
    let moves = vmi.spec.eviction_strategy == Some(EvictionStrategy::LiveMigrate);
    if !owned || !moves || vmi.is_deleting() || status.phase != VmiPhase::Running {
        return Answer::Allow;
    }
    let called = format!("{}/{}", vmi.namespace(), vmi.name());
    let pod_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if let Some(state) = status.migration_state.as_ref().filter(|state| !state.is_final())
        && pod.metadata.name.as_ref() == Some(&state.target_pod)
    {
        return Answer::Deny(format!("VMI {called:?} is being migrated to this pod"));
    }
    let Some(node) = status.node_name.filter(|node| pod_node == Some(node)) else { return Answer::Allow };
    let migratable =
        status.conditions.iter().any(|c| c.type_ == "LiveMigratable" && c.status == ConditionStatus::True);
    if !migratable {
        let why =
            format!("VMI {} is configured with an eviction strategy but is not live-migratable", vmi.name());
        return Answer::Deny(why);
    }
    let message = format!("Eviction triggered evacuation of VMI {called:?}");
    if status.evacuation_node_name.as_ref() == Some(&node) {
        return Answer::Deny(format!("Evacuation in progress: {message}"));
    }
    Answer::Evacuate { node, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "labels": {"kubevirt.io": "virt-launcher"},
                "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                    "name": "a", "uid": "u", "controller": true}],
            },
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn vmi(strategy: &str, migratable: &str, more: Value) -> VirtualMachineInstance {
        let mut vmi = json!({
            "metadata": {"name": "a", "namespace": "ns", "uid": "u"},
            "spec": {"domain": {}, "evictionStrategy": strategy},
            "status": {"phase": "Running", "nodeName": "n1",
                "conditions": [{"type": "LiveMigratable", "status": migratable}]},
        });
        json_patch::merge(&mut vmi["status"], &more);
        serde_json::from_value(vmi).unwrap()
    }

    #[test]
    fn a_guest_that_is_to_be_moved_is_not_killed() {
        let here = pod("p1", "n1", "Running");
        let moving = json!({"migrationState": {"migrationUid": "m", "targetPod": "p2"}});
        let deny = |why: &str| Answer::Deny(why.to_owned());
        let table = [
            (here.clone(), vmi("None", "True", json!({})), Answer::Allow),
            (
                here.clone(),
                vmi("LiveMigrate", "True", json!({})),
                Answer::Evacuate {
                    node: "n1".into(),
                    message: "Eviction triggered evacuation of VMI \"ns/a\"".into(),
                },
            ),
            (
                here.clone(),
                vmi("LiveMigrate", "True", json!({"evacuationNodeName": "n1"})),
                deny("Evacuation in progress: Eviction triggered evacuation of VMI \"ns/a\""),
            ),
            (
                here.clone(),
                vmi("LiveMigrate", "False", json!({})),
                deny("VMI a is configured with an eviction strategy but is not live-migratable"),
            ),
            (
                pod("p2", "n2", "Running"),
                vmi("LiveMigrate", "True", moving),
                deny("VMI \"ns/a\" is being migrated to this pod"),
            ),
            // What a move has left behind.
            (pod("p0", "n0", "Running"), vmi("LiveMigrate", "True", json!({})), Answer::Allow),
            (pod("p1", "n1", "Succeeded"), vmi("LiveMigrate", "True", json!({})), Answer::Allow),
            (here.clone(), vmi("LiveMigrate", "True", json!({"phase": "Succeeded"})), Answer::Allow),
        ];
        for (pod, vmi, expected) in table {
            assert_eq!(answer(&pod, Some(&vmi)), expected);
        }
        assert_eq!(answer(&here, None), Answer::Allow);
        assert_eq!(instance_of(&here), Some("a"));
        assert_eq!(instance_of(&Pod::default()), None);
    }
}
