//! Who has to report a release, and what they report, from what the watches hold. The rules are
//! `kubevirt_types::gate`'s: virt-api's gate and the operator's plan never disagree about them.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kubevirt_types::gate::{self, PodFacts, Report, Reporter};
use kubevirt_types::labels;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Everybody who has to report.
pub fn reporters(
    pods: &[Value],
    leases: &[Value],
    nodes: &[Value],
    daemon_set: Option<&Value>,
    now: Timestamp,
) -> Vec<Reporter> {
    let facts = |component: &str| -> Vec<PodFacts> {
        pods.iter()
            .filter(|pod| pod["metadata"]["labels"][labels::APP] == component)
            .filter_map(typed::<Pod>)
            .map(|pod| PodFacts::from_pod(&pod))
            .collect()
    };
    let reports: Vec<Report> =
        leases.iter().filter_map(typed::<Lease>).filter_map(|lease| Report::from_lease(&lease)).collect();
    let nodes: Vec<Node> = nodes.iter().filter_map(typed).collect();
    let wanted = daemon_set.and_then(typed).map(|set| gate::wanted_nodes(&set, &nodes)).unwrap_or_default();
    gate::reporters(
        &facts("virt-controller"),
        &facts("virt-handler"),
        &wanted,
        &gate::lost_nodes(&nodes, now),
        &reports,
    )
}

/// An object of the API server as its type; none where it isn't one, which an API server never sends.
fn typed<T: DeserializeOwned>(object: &Value) -> Option<T> {
    T::deserialize(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;
    use serde_json::json;

    fn pod(component: &str, name: &str, node: &str, created: u32) -> Value {
        json!({
            "metadata": {
                "name": name, "labels": {labels::APP: component},
                "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"),
            },
            "spec": {"nodeName": node, "containers": []},
        })
    }

    #[test]
    fn the_newest_handler_of_a_node_speaks_for_it_and_a_missing_one_is_silent() {
        let lease = |pod: &str, version: &str| json!({"metadata": {"labels": {labels::REPORT_VERSION: version}}, "spec": {"holderIdentity": pod}});
        let node = |name: &str, taints: Value| {
            json!({
                "metadata": {"name": name}, "spec": {"taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let leases = [lease("c1", "v0.18.0"), lease("h1", "v0.17.0"), lease("h2", "v0.18.0")];
        let pods = [
            pod("virt-controller", "c1", "a", 1),
            pod("virt-handler", "h1", "a", 1),
            pod("virt-handler", "h2", "a", 2),
            pod("virt-handler", "h3", "b", 1),
            pod("virt-api", "a1", "b", 1),
        ];
        let tainted = node("tainted", json!([{"key": "x", "effect": "NoSchedule"}]));
        let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([])), tainted];
        let daemon_set = json!({
            "metadata": {"name": "virt-handler"},
            "spec": {"selector": {}, "template": {"spec": {"containers": []}}},
        });
        let told: Vec<_> = reporters(&pods, &leases, &nodes, Some(&daemon_set), Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|reporter| (reporter.name, reporter.release))
            .collect();
        assert_eq!(
            told,
            [
                ("c1".to_owned(), Some(Release::V0_18_0)),
                ("virt-handler on node a".to_owned(), Some(Release::V0_18_0)),
                ("virt-handler on node b".to_owned(), None),
                ("virt-handler on node c".to_owned(), None),
            ]
        );
    }
}
