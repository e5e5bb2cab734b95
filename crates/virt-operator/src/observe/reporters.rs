//! Who has to report a release, and what they report. Pure.
//!
//! The rules are ARCHITECTURE's: every virt-controller pod that isn't being deleted, the newest
//! virt-handler pod of each node that isn't being deleted, and a silent one for each node that the
//! DaemonSet wants and that has none.

use std::collections::BTreeMap;

use kubevirt_rollout::observed::Pod;
use kubevirt_types::gate::Reporter;
use kubevirt_types::{Release, labels};
use serde_json::Value;

/// The releases in report leases, by the name of the pod that reports.
pub fn reports(leases: &[Value]) -> BTreeMap<String, Release> {
    leases
        .iter()
        .filter_map(|lease| {
            let pod = lease["spec"]["holderIdentity"].as_str()?;
            let release = lease["metadata"]["labels"][labels::REPORT_VERSION].as_str()?.parse().ok()?;
            Some((pod.to_owned(), release))
        })
        .collect()
}

/// Everybody who has to report. `handlers_wanted` is the number of nodes that the DaemonSet wants.
pub fn reporters(
    pods: &[Pod],
    reports: &BTreeMap<String, Release>,
    nodes: &[String],
    handlers_wanted: usize,
) -> Vec<Reporter> {
    let living = |component: &'static str| {
        pods.iter().filter(move |pod| pod.component == component && pod.deleting_since.is_none())
    };
    let mut reporters: Vec<Reporter> = living("virt-controller")
        .map(|pod| Reporter { name: pod.name.clone(), release: reports.get(&pod.name).cloned() })
        .collect();
    let mut newest: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in living("virt-handler") {
        let Some(node) = pod.node.as_deref() else { continue };
        let known = newest.entry(node).or_insert(pod);
        if (pod.created, &pod.name) > (known.created, &known.name) {
            *known = pod;
        }
    }
    for (node, pod) in &newest {
        let release = reports.get(&pod.name).cloned();
        reporters.push(Reporter { name: on_node(node), release });
    }
    let missing = handlers_wanted.saturating_sub(newest.len());
    let without = nodes.iter().filter(|node| !newest.contains_key(node.as_str()));
    reporters.extend(without.take(missing).map(|node| Reporter { name: on_node(node), release: None }));
    reporters
}

fn on_node(node: &str) -> String {
    format!("virt-handler on node {node}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(component: &str, name: &str, node: &str, created: i64, deleting: bool) -> Pod {
        Pod {
            component: component.into(),
            name: name.into(),
            uid: name.into(),
            node: Some(node.into()),
            template_hash: None,
            release: None,
            created: jiff::Timestamp::from_second(created).unwrap(),
            ready_since: None,
            deleting_since: deleting.then_some(jiff::Timestamp::UNIX_EPOCH),
            restarts: 0,
            trouble: None,
        }
    }

    #[test]
    fn the_newest_handler_of_a_node_speaks_for_it_and_a_missing_one_is_silent() {
        let lease = |pod: &str, version: &str| json!({"metadata": {"labels": {labels::REPORT_VERSION: version}}, "spec": {"holderIdentity": pod}});
        let reports = reports(&[lease("c1", "v0.18.0"), lease("h1", "v0.17.0"), lease("h2", "v0.18.0")]);
        let pods = [
            pod("virt-controller", "c1", "a", 1, false),
            pod("virt-controller", "c0", "a", 1, true),
            pod("virt-handler", "h1", "a", 1, false),
            pod("virt-handler", "h2", "a", 2, false),
            pod("virt-handler", "h3", "b", 1, false),
            pod("virt-api", "a1", "b", 1, false),
        ];
        let nodes = ["a".to_owned(), "b".to_owned(), "c".to_owned(), "tainted".to_owned()];
        let told: Vec<_> = reporters(&pods, &reports, &nodes, 3)
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
