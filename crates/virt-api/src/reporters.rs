//! Who must report a release before the version gate opens: pure, from what virt-api watches.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kubevirt_types::Release;
use kubevirt_types::gate::Reporter;
use kubevirt_types::labels::REPORT_VERSION;

use crate::handler_pod::is_over;

/// What virt-api watches.
pub struct Watched<'a> {
    /// Report leases.
    pub leases: Vec<&'a Lease>,
    /// Pods of virt-controller.
    pub controllers: Vec<&'a Pod>,
    /// Pods of virt-handler.
    pub handlers: Vec<&'a Pod>,
    /// The DaemonSet of virt-handler, once there is one.
    pub daemon_set: Option<&'a DaemonSet>,
    /// All nodes.
    pub nodes: Vec<&'a Node>,
}

/// Taints that every pod of a DaemonSet tolerates: the DaemonSet controller sees to it.
const TOLERATED_BY_DAEMONS: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
];

/// Everybody who must report: each virt-controller that stays; for each node the newest virt-handler that
/// stays; and for each node that should have a virt-handler and has none, one that is silent.
pub fn reporters(watched: &Watched<'_>) -> Vec<Reporter> {
    let reports = reports(&watched.leases);
    let release_of = |pod: &Pod| pod.metadata.name.as_deref().and_then(|name| reports.get(name)).cloned();
    let stays = |pod: &&&Pod| pod.metadata.deletion_timestamp.is_none() && !is_over(pod);

    let mut reporters: Vec<Reporter> = watched
        .controllers
        .iter()
        .filter(stays)
        .map(|pod| Reporter { name: pod_name(pod).to_owned(), release: release_of(pod) })
        .collect();
    let mut newest: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in watched.handlers.iter().filter(stays) {
        let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) else { continue };
        let best = newest.entry(node).or_insert(pod);
        if age_key(pod) > age_key(best) {
            *best = pod;
        }
    }
    for node in watched.nodes.iter().filter(|node| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        watched.daemon_set.is_some_and(|set| wants(set, node)) && !newest.contains_key(name)
    }) {
        let node = node.metadata.name.as_deref().unwrap_or_default();
        reporters.push(Reporter { name: handler_name(node), release: None });
    }
    reporters.extend(
        newest.iter().map(|(node, pod)| Reporter { name: handler_name(node), release: release_of(pod) }),
    );
    reporters.sort_by(|a, b| a.name.cmp(&b.name));
    reporters
}

fn handler_name(node: &str) -> String {
    format!("virt-handler on node {node}")
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn age_key(pod: &Pod) -> (Option<jiff::Timestamp>, &str) {
    (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod_name(pod))
}

/// Releases by pod. A label that names no release counts as no report.
fn reports(leases: &[&Lease]) -> BTreeMap<String, Release> {
    leases
        .iter()
        .filter_map(|lease| {
            let pod = lease.spec.as_ref()?.holder_identity.clone()?;
            let release = lease.metadata.labels.as_ref()?.get(REPORT_VERSION)?.parse().ok()?;
            Some((pod, release))
        })
        .collect()
}

/// Whether a DaemonSet puts a pod on a node: selector, required node affinity, taints.
fn wants(set: &DaemonSet, node: &Node) -> bool {
    let Some(pod) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else { return false };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let affine = required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            term.match_expressions.iter().flatten().all(|e| {
                let value = labels.get(&e.key);
                let values = e.values.as_deref().unwrap_or_default();
                match e.operator.as_str() {
                    "In" => value.is_some_and(|v| values.contains(v)),
                    "NotIn" => value.is_none_or(|v| !values.contains(v)),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    // Gt and Lt: count the node in, which can only keep the gate shut for longer.
                    _ => true,
                }
            })
        })
    });
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    selected
        && affine
        && taints.iter().filter(|taint| taint.effect != "PreferNoSchedule").all(|taint| {
            TOLERATED_BY_DAEMONS.contains(&taint.key.as_str())
                || tolerations.iter().any(|t| tolerates(t, taint))
        })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    let fits = effect.is_none_or(|effect| effect == taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = |value: Option<&String>| value.cloned().unwrap_or_default();
    fits && match key {
        None => exists,
        Some(key) => {
            key == taint.key && (exists || value(toleration.value.as_ref()) == value(taint.value.as_ref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, created: u32, extra: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}});
        json_patch::merge(&mut pod, &extra);
        serde_json::from_value(pod).unwrap()
    }

    fn lease(pod: &str, release: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": format!("version-report-{pod}"), "labels": {REPORT_VERSION: release}},
            "spec": {"holderIdentity": pod}}))
        .unwrap()
    }

    fn node(name: &str, labels: Value, taints: Value) -> Node {
        let json = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        serde_json::from_value(json).unwrap()
    }

    fn daemon_set(pod: Value) -> DaemonSet {
        let mut spec = json!({"containers": []});
        json_patch::merge(&mut spec, &pod);
        let json = json!({"metadata": {"name": "virt-handler"},
            "spec": {"selector": {}, "template": {"metadata": {}, "spec": spec}}});
        serde_json::from_value(json).unwrap()
    }

    fn said(watched: &Watched<'_>) -> Vec<String> {
        reporters(watched)
            .into_iter()
            .map(|r| format!("{}: {}", r.name, r.release.map_or("silent".into(), |r| r.to_string())))
            .collect()
    }

    #[test]
    fn everybody_who_stays_reports_and_a_node_without_handler_is_silent() {
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}});
        let failed = json!({"status": {"phase": "Failed"}});
        let controllers = [
            pod("virt-controller-a", "n1", 1, json!({})),
            pod("virt-controller-b", "n1", 1, json!({})),
            pod("virt-controller-going", "n1", 1, going.clone()),
            pod("virt-controller-evicted", "n1", 1, failed),
        ];
        let handlers = [
            pod("virt-handler-old", "n1", 1, json!({})),
            pod("virt-handler-new", "n1", 2, json!({})),
            pod("virt-handler-going", "n2", 1, going),
        ];
        let leases = [
            lease("virt-controller-a", "v0.18.0"),
            lease("virt-controller-going", "v0.17.0"),
            lease("virt-handler-old", "v0.17.0"),
            lease("virt-handler-new", "v0.18.0"),
            lease("virt-handler-going", "v0.17.0"),
            lease("virt-controller-b", "latest"),
        ];
        let nodes = [node("n1", json!({}), json!([])), node("n2", json!({}), json!([]))];
        let set = daemon_set(json!({}));
        let mut watched = Watched {
            leases: leases.iter().collect(),
            controllers: controllers.iter().collect(),
            handlers: handlers.iter().collect(),
            daemon_set: Some(&set),
            nodes: nodes.iter().collect(),
        };
        assert_eq!(
            said(&watched),
            [
                "virt-controller-a: v0.18.0",
                "virt-controller-b: silent",
                "virt-handler on node n1: v0.18.0",
                "virt-handler on node n2: silent",
            ]
        );
        watched.daemon_set = None;
        assert_eq!(said(&watched).len(), 3);
    }

    #[test]
    fn a_daemon_set_wants_the_nodes_that_its_pods_fit() {
        let control_plane = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        let linux = json!({"kubernetes.io/os": "linux"});
        let affinity = |operator: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": operator}]}]}}}})
        };
        for (pod, labels, taints, expected) in [
            (json!({}), json!({}), json!([]), true),
            (json!({"nodeSelector": linux}), linux.clone(), json!([]), true),
            (json!({"nodeSelector": linux}), json!({}), json!([]), false),
            (json!({}), json!({}), control_plane.clone(), false),
            (json!({"tolerations": [{"operator": "Exists"}]}), json!({}), control_plane.clone(), true),
            (
                json!({"tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}]}),
                json!({}),
                control_plane.clone(),
                false,
            ),
            (
                json!({"tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}]}),
                json!({}),
                json!([{"key": "a", "value": "b", "effect": "NoExecute"}]),
                true,
            ),
            (json!({}), json!({}), json!([{"key": "a", "effect": "PreferNoSchedule"}]), true),
            (
                json!({}),
                json!({}),
                json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
                true,
            ),
            (affinity("Exists"), json!({}), json!([]), false),
            (affinity("Exists"), json!({"gpu": "1"}), json!([]), true),
            (affinity("DoesNotExist"), json!({}), json!([]), true),
        ] {
            let wanted = wants(&daemon_set(pod.clone()), &node("n", labels.clone(), taints.clone()));
            assert_eq!(wanted, expected, "{pod} {labels} {taints}");
        }
    }
}
