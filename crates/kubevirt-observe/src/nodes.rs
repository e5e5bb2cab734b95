//! What a node says of itself. Pure.

use k8s_openapi::api::core::v1::Node as ApiNode;
use kubevirt_rollout::observed::Node;
use kubevirt_types::{gate, labels};
use serde::Deserialize;
use serde_json::Value;

use crate::handle::handle;

/// Labels and annotations of ours start so.
const OURS: &str = "kubevirt.io/";

/// The facts of a node.
pub fn node(object: &Value) -> Option<Node> {
    let ours = |map: &str| -> Vec<String> {
        let map = object["metadata"][map].as_object();
        map.into_iter().flat_map(|map| map.keys()).filter(|name| name.starts_with(OURS)).cloned().collect()
    };
    let annotation = |name: &str| object["metadata"]["annotations"][name].as_str();
    let typed = ApiNode::deserialize(object).ok()?;
    Some(Node {
        handle: handle(object)?,
        not_ready_since: gate::not_ready_since(&typed),
        ready_since: gate::ready_since(&typed),
        unschedulable: object["spec"]["unschedulable"].as_bool().unwrap_or(false),
        schedulable_label: object["metadata"]["labels"][labels::SCHEDULABLE].as_str().map(str::to_owned),
        heartbeat: annotation(labels::HEARTBEAT).and_then(|at| at.parse().ok()),
        handler_pod: annotation(labels::HANDLER_POD).map(str::to_owned),
        our_labels: ours("labels"),
        our_annotations: ours("annotations"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_tells_what_is_ours_on_it() {
        let node = node(&json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "n", "uid": "u", "resourceVersion": "1",
                "labels": {"kubevirt.io/schedulable": "true", "kubernetes.io/os": "linux"},
                "annotations": {
                    "kubevirt.io/heartbeat": "2026-01-01T00:00:00Z", "kubevirt.io/handler-pod": "virt-handler-x",
                },
            },
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]},
        }))
        .unwrap();
        assert!(node.not_ready_since.is_none() && !node.unschedulable);
        assert_eq!(node.ready_since, Some("2026-01-01T00:00:01Z".parse().unwrap()));
        assert_eq!(node.schedulable_label.as_deref(), Some("true"));
        assert_eq!(node.our_labels, ["kubevirt.io/schedulable"]);
        assert_eq!(node.our_annotations, ["kubevirt.io/heartbeat", "kubevirt.io/handler-pod"]);
        assert_eq!(node.heartbeat, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(node.handler_pod.as_deref(), Some("virt-handler-x"));
    }
}
