//! The version gate: nothing new may be used until every controller reports that it knows it.
//!
//! Each virt-controller and virt-handler reports its own release in a Lease. The *floor* is the
//! lowest release among those that the cluster wants. virt-api computes it from what it watches
//! itself, so the gate holds with the operator down.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::labels::REPORT_VERSION;
use crate::release::Release;

/// For how long a node may be NotReady before nobody waits for its virt-handler any more: twice what a kubelet that
/// restarts needs. It counts again when the node is back.
pub const LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// A virt-controller or virt-handler that the cluster has, or wants and doesn't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its name for people, such as `virt-handler on node worker-1`.
    pub name: String,
    /// What it reports; none when it has not reported yet, or doesn't exist yet.
    pub release: Option<Release>,
}

/// What the gate needs to know of a pod of virt-controller or virt-handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its node; none while it has none.
    pub node: Option<String>,
    /// When it was made.
    pub created: Option<jiff::Timestamp>,
    /// Whether it is being deleted, or has ended.
    pub ending: bool,
}

impl PodFacts {
    /// Takes them from a pod.
    pub fn from_pod(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            ending: pod.metadata.deletion_timestamp.is_some()
                || matches!(phase, Some("Succeeded" | "Failed")),
        }
    }
}

/// One version report: which pod says that it runs which release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The pod that reports.
    pub pod: String,
    /// What it reports.
    pub release: Release,
}

impl Report {
    /// Takes it from a report's Lease; none where the Lease is no readable report.
    pub fn from_lease(lease: &Lease) -> Option<Self> {
        let release = lease.metadata.labels.as_ref()?.get(REPORT_VERSION)?.parse().ok()?;
        let pod = lease.spec.as_ref()?.holder_identity.clone()?;
        Some(Self { pod, release })
    }
}

/// Everybody whose report the gate waits for: every virt-controller pod, for each node its newest virt-handler pod,
/// and each node that should have a virt-handler and has none. Pods that are ending don't count, nor what is on a
/// lost node.
pub fn reporters(
    controllers: &[PodFacts],
    handlers: &[PodFacts],
    handler_nodes: &[String],
    lost_nodes: &BTreeSet<String>,
    reports: &[Report],
) -> Vec<Reporter> {
    let by_pod: BTreeMap<&str, &Release> = reports.iter().map(|r| (r.pod.as_str(), &r.release)).collect();
    let release_of = |pod: &PodFacts| by_pod.get(pod.name.as_str()).copied().cloned();
    let lost = |pod: &&PodFacts| pod.node.as_ref().is_some_and(|node| lost_nodes.contains(node));
    let mut by_node: BTreeMap<&str, Option<&PodFacts>> = handler_nodes
        .iter()
        .filter(|node| !lost_nodes.contains(*node))
        .map(|node| (node.as_str(), None))
        .collect();
    for pod in handlers.iter().filter(|pod| !pod.ending && !lost(pod)) {
        let Some(node) = &pod.node else { continue };
        let newest = by_node.entry(node).or_default();
        if newest.is_none_or(|other| (other.created, &other.name) < (pod.created, &pod.name)) {
            *newest = Some(pod);
        }
    }
    let controllers = controllers
        .iter()
        .filter(|pod| !pod.ending && !lost(pod))
        .map(|pod| Reporter { name: pod.name.clone(), release: release_of(pod) });
    let handlers = by_node.into_iter().map(|(node, pod)| Reporter {
        name: format!("virt-handler on node {node}"),
        release: pod.and_then(release_of),
    });
    controllers.chain(handlers).collect()
}

/// The nodes on which a DaemonSet wants a pod: those that its node selector names and whose taints it tolerates.
/// Taints that every DaemonSet tolerates don't count. Node affinity isn't looked at: ours has none.
pub fn wanted_nodes(daemon_set: &DaemonSet, nodes: &[Node]) -> Vec<String> {
    let pod = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let selector = pod.and_then(|pod| pod.node_selector.clone()).unwrap_or_default();
    let tolerations = pod.and_then(|pod| pod.tolerations.clone()).unwrap_or_default();
    let wanted = |node: &&Node| {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && taints.iter().all(|taint| {
                taint.effect == "PreferNoSchedule"
                    || taint.key.starts_with("node.kubernetes.io/")
                    || tolerations.iter().any(|toleration| tolerates(toleration, taint))
            })
    };
    nodes.iter().filter(wanted).filter_map(|node| node.metadata.name.clone()).collect()
}

/// Since when a node's condition Ready isn't True; none while it is. A node that has never reported one counts from
/// its creation.
pub fn not_ready_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    if ready.is_some_and(|condition| condition.status == "True") {
        return None;
    }
    let changed = ready.and_then(|condition| condition.last_transition_time.as_ref());
    let since = changed.or(node.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    Some(since.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Since when a node's condition Ready is True; none while it isn't.
pub fn ready_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready")?;
    let changed = ready.last_transition_time.as_ref().filter(|_| ready.status == "True");
    changed.map(|time| time.0)
}

/// The nodes that have been NotReady for longer than anybody waits.
pub fn lost_nodes(nodes: &[Node], now: Timestamp) -> BTreeSet<String> {
    let lost = |node: &&Node| not_ready_since(node).is_some_and(|since| is_lost(since, now));
    nodes.iter().filter(lost).filter_map(|node| node.metadata.name.clone()).collect()
}

/// Whether a node that has been NotReady since then is lost.
pub fn is_lost(not_ready_since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(not_ready_since) >= LOST_AFTER
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("");
    effect.is_none_or(|effect| effect == taint.effect)
        && key.map_or(exists, |key| key == taint.key)
        && (exists || value())
}

/// The lowest release among all reporters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Floor {
    /// Every reporter has reported, and this is the lowest.
    Known {
        /// The lowest release.
        release: Release,
        /// Who reports it.
        held_by: Vec<String>,
    },
    /// Somebody has not reported, or nobody is there.
    Unknown {
        /// Who has not.
        silent: Vec<String>,
    },
}

/// Computes the floor.
pub fn floor(reporters: &[Reporter]) -> Floor {
    let silent: Vec<String> =
        reporters.iter().filter(|r| r.release.is_none()).map(|r| r.name.clone()).collect();
    let lowest = reporters.iter().filter_map(|r| r.release.as_ref()).min();
    match lowest {
        Some(lowest) if silent.is_empty() => Floor::Known {
            release: lowest.clone(),
            held_by: reporters
                .iter()
                .filter(|r| r.release.as_ref() == Some(lowest))
                .map(|r| r.name.clone())
                .collect(),
        },
        Some(_) | None => Floor::Unknown { silent },
    }
}

/// Why something may not be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// This virt-api is of a release that doesn't have it.
    #[error("{feature} is unknown in {own} (it exists since {since})")]
    UnknownHere {
        #[allow(missing_docs)]
        feature: &'static str,
        #[allow(missing_docs)]
        own: Release,
        #[allow(missing_docs)]
        since: Release,
    },
    /// This virt-api has it, some controller doesn't.
    #[error("{feature} is new in {since} and the version gate is closed: waiting for {}", waiting_for.join(", "))]
    Closed {
        #[allow(missing_docs)]
        feature: &'static str,
        #[allow(missing_docs)]
        since: Release,
        /// Who doesn't know it yet.
        waiting_for: Vec<String>,
    },
}

/// Whether a virt-api of release `own` may let people use a feature.
pub fn check(feature: &Feature, own: &Release, floor: &Floor) -> Result<(), GateError> {
    if !feature.exists_in(own) {
        return Err(GateError::UnknownHere {
            feature: feature.name,
            own: own.clone(),
            since: feature.since.clone(),
        });
    }
    if feature.since <= Release::V0_17_0 {
        return Ok(());
    }
    let closed = |waiting_for| {
        Err(GateError::Closed { feature: feature.name, since: feature.since.clone(), waiting_for })
    };
    match floor {
        Floor::Known { release, .. } if *release >= feature.since => Ok(()),
        Floor::Known { release, held_by } => {
            closed(held_by.iter().map(|who| format!("{who} ({release})")).collect())
        }
        Floor::Unknown { silent } if silent.is_empty() => {
            closed(vec!["the first virt-controller and virt-handler to report".to_owned()])
        }
        Floor::Unknown { silent } => {
            closed(silent.iter().map(|who| format!("{who} (has not reported)")).collect())
        }
    }
}

/// The gate as it stands, in the status of the KubeVirt object and at virt-api's `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Whether all that `release` brought may be used.
    pub open: bool,
    /// The release whose features the gate guards.
    pub release: String,
    /// The lowest release that a controller reports; none while one has not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// Who holds the gate shut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// The gate's state for features up to `own`.
pub fn status(own: &Release, floor: &Floor) -> GateStatus {
    let (open, waiting_for) = match floor {
        Floor::Known { release, .. } if release >= own => (true, vec![]),
        Floor::Known { held_by, .. } => (false, held_by.clone()),
        Floor::Unknown { silent } => (false, silent.clone()),
    };
    let floor = match floor {
        Floor::Known { release, .. } => Some(release.to_string()),
        Floor::Unknown { .. } => None,
    };
    GateStatus { open, release: own.to_string(), floor, waiting_for }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::{What, find};

    fn reporter(name: &str, release: Option<Release>) -> Reporter {
        Reporter { name: name.into(), release }
    }

    #[test]
    fn table() {
        let old = || Some(Release::V0_17_0);
        let new = || Some(Release::V0_18_0);
        let pause = find(What::Subresource("virtualmachineinstances", "pause")).unwrap();
        let cases: [(Vec<Option<Release>>, Release, bool); 6] = [
            (vec![new(), new()], Release::V0_18_0, true),
            (vec![new(), old()], Release::V0_18_0, false),
            (vec![new(), None], Release::V0_18_0, false),
            (vec![], Release::V0_18_0, false),
            (vec![new(), new()], Release::V0_17_0, false),
            (vec![old(), old()], Release::V0_17_0, false),
        ];
        for (reported, own, open) in cases {
            let reporters: Vec<_> = reported.iter().map(|r| reporter("h", r.clone())).collect();
            assert_eq!(check(pause, &own, &floor(&reporters)).is_ok(), open, "{reported:?} {own}");
        }
    }

    fn pod(name: &str, node: &str, created: i64, ending: bool) -> PodFacts {
        PodFacts {
            name: name.into(),
            node: Some(node.into()).filter(|n: &String| !n.is_empty()),
            created: jiff::Timestamp::from_second(created).ok(),
            ending,
        }
    }

    #[test]
    fn reporters_are_live_controllers_the_newest_handler_of_a_node_and_nodes_without_one() {
        let controllers = [pod("c-1", "a", 1, false), pod("c-0", "a", 0, true)];
        let handlers = [
            pod("h-old", "a", 1, false),
            pod("h-new", "a", 2, false),
            pod("h-b", "b", 1, false),
            pod("h-b-leaving", "b", 9, true),
            pod("h-pending", "", 9, false),
        ];
        let report = |pod: &str, release| Report { pod: pod.into(), release };
        let reports = [
            report("c-1", Release::V0_18_0),
            report("c-0", Release::V0_17_0),
            report("h-old", Release::V0_17_0),
            report("h-b", Release::V0_17_0),
        ];
        let expected = [
            reporter("c-1", Some(Release::V0_18_0)),
            reporter("virt-handler on node a", None),
            reporter("virt-handler on node b", Some(Release::V0_17_0)),
            reporter("virt-handler on node c", None),
        ];
        let nodes = ["a".into(), "c".into()];
        assert_eq!(reporters(&controllers, &handlers, &nodes, &BTreeSet::new(), &reports), expected);
        let lost = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        assert_eq!(reporters(&controllers, &handlers, &nodes, &lost, &reports), expected[2..3]);
    }

    #[test]
    fn a_node_is_lost_when_it_has_been_not_ready_for_long() {
        let node = |name: &str, status: Option<(&str, &str)>| -> Node {
            let conditions: Vec<_> = status
                .into_iter()
                .map(|(status, at)| {
                    serde_json::json!({"type": "Ready", "status": status, "lastTransitionTime": at})
                })
                .collect();
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let nodes = [
            node("ready", Some(("True", "2026-01-01T00:00:01Z"))),
            node("dead", Some(("False", "2026-01-01T00:00:01Z"))),
            node("silent", Some(("Unknown", "2026-01-01T00:00:02Z"))),
            node("new", None),
        ];
        let at = |text: &str| lost_nodes(&nodes, text.parse().unwrap()).into_iter().collect::<Vec<_>>();
        assert_eq!(at("2026-01-01T00:00:59Z"), Vec::<String>::new());
        assert_eq!(at("2026-01-01T00:01:01Z"), ["dead", "new"]);
        assert_eq!(at("2026-01-01T00:01:02Z"), ["dead", "new", "silent"]);
    }

    #[test]
    fn a_daemon_set_wants_nodes_that_match_and_that_it_tolerates() {
        let node = |name: &str, os: &str, taint: Option<(&str, &str)>| -> Node {
            let taints: Vec<_> = taint
                .into_iter()
                .map(|(key, effect)| serde_json::json!({"key": key, "effect": effect}))
                .collect();
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/os": os}}, "spec": {"taints": taints},
            }))
            .unwrap()
        };
        let daemon_set: DaemonSet = serde_json::from_value(serde_json::json!({
            "metadata": {}, "spec": {"selector": {}, "template": {"spec": {
                "containers": [], "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
            }}},
        }))
        .unwrap();
        let nodes = [
            node("plain", "linux", None),
            node("other-os", "windows", None),
            node("cordoned", "linux", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))),
            node("reserved", "linux", Some(("dedicated", "NoSchedule"))),
            node("reluctant", "linux", Some(("dedicated", "PreferNoSchedule"))),
            node("critical", "linux", Some(("CriticalAddonsOnly", "NoExecute"))),
        ];
        assert_eq!(wanted_nodes(&daemon_set, &nodes), ["plain", "cordoned", "reluctant", "critical"]);
    }

    #[test]
    fn the_message_names_who_holds_it_shut() {
        let pause = find(What::Subresource("virtualmachineinstances", "pause")).unwrap();
        let reporters = [
            reporter("virt-controller a", Some(Release::V0_18_0)),
            reporter("virt-handler on node b", Some(Release::V0_17_0)),
        ];
        let error = check(pause, &Release::V0_18_0, &floor(&reporters)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pause is new in v0.18.0 and the version gate is closed: waiting for virt-handler on node b (v0.17.0)"
        );
    }
}
