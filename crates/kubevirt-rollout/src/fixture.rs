//! Small worlds for this crate's table tests.

use jiff::Timestamp;
use kubevirt_types::{ObjectKey, Release};
use serde_json::json;

use crate::observed::{Certificates, Handle, Node, Observed, Operator, Pod};

/// So many seconds after the beginning.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A world with an empty KubeVirt object and nothing else.
pub fn observed() -> Observed {
    Observed {
        synced: true,
        operator: Operator { release: Release::V0_18_0, registry: "r".into(), namespace: "kubevirt".into() },
        kubevirt: serde_json::from_value(json!({
            "metadata": {"name": "kubevirt", "namespace": "kubevirt", "uid": "kv", "resourceVersion": "1"},
            "spec": {},
        }))
        .unwrap(),
        other_kubevirts: vec![],
        objects: [].into(),
        pods: vec![],
        nodes: vec![],
        strategies: [].into(),
        strategy_jobs: vec![],
        reporters: vec![],
        guard_active: false,
        certificates: Certificates::default(),
        instances: [].into(),
    }
}

/// A node that is Ready and can run VMs.
pub fn node(name: &str) -> Node {
    Node {
        handle: Handle {
            key: ObjectKey::cluster("v1", "Node", name),
            uid: format!("uid-{name}"),
            resource_version: "1".into(),
        },
        not_ready_since: None,
        ready_since: None,
        unschedulable: false,
        schedulable_label: Some("true".into()),
        heartbeat: None,
        handler_pod: None,
        our_labels: vec![],
        our_annotations: vec![],
    }
}

/// A pod that was made at the beginning and isn't Ready.
pub fn pod(component: &str, name: &str, node: &str) -> Pod {
    Pod {
        component: component.into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        node: Some(node.into()),
        template_hash: Some("new".into()),
        release: Some(Release::V0_18_0),
        created: at(0),
        ready_since: None,
        unready_since: None,
        deleting_since: None,
        restarts: 0,
        crash: None,
        trouble: None,
    }
}
