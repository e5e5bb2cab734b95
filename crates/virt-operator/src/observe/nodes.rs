//! What a node says of itself. Pure.

use kubevirt_rollout::observed::Node;
use kubevirt_types::labels;
use serde_json::Value;

use super::handle;

/// Labels and annotations of ours start so.
const OURS: &str = "kubevirt.io/";

/// The facts of a node.
pub fn node(object: &Value) -> Option<Node> {
    let ours = |map: &str| -> Vec<String> {
        let map = object["metadata"][map].as_object();
        map.into_iter().flat_map(|map| map.keys()).filter(|name| name.starts_with(OURS)).cloned().collect()
    };
    let conditions = object["status"]["conditions"].as_array();
    Some(Node {
        handle: handle(object)?,
        ready: conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        unschedulable: object["spec"]["unschedulable"].as_bool().unwrap_or(false),
        schedulable_label: object["metadata"]["labels"][labels::SCHEDULABLE].as_str().map(str::to_owned),
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
                "annotations": {"kubevirt.io/heartbeat": "now"},
            },
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        assert!(node.ready && !node.unschedulable);
        assert_eq!(node.schedulable_label.as_deref(), Some("true"));
        assert_eq!(node.our_labels, ["kubevirt.io/schedulable"]);
        assert_eq!(node.our_annotations, ["kubevirt.io/heartbeat"]);
    }
}
