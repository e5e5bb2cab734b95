//! Which virt-handler to ask about an instance: there may be two on a node while it is replaced.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// A virt-handler that may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerPod {
    /// The pod's name.
    pub name: String,
    /// Where it listens.
    pub ip: IpAddr,
}

/// The virt-handlers of a node, the best first: Ready before others, staying before going, newest before
/// older. One that is going still serves, and is better than none.
pub fn rank<'a>(pods: impl IntoIterator<Item = &'a Pod>, node: &str) -> Vec<HandlerPod> {
    let mut ranked: Vec<_> = pods
        .into_iter()
        .filter(|pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node))
        .filter(|pod| !is_over(pod))
        .filter_map(|pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            let name = pod.metadata.name.clone()?;
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let going = pod.metadata.deletion_timestamp.is_some();
            let rank = (!is_ready(pod), going, std::cmp::Reverse(created), name.clone());
            Some((rank, HandlerPod { name, ip }))
        })
        .collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

/// Whether no container of a pod will run again.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, ready: bool, created: u32, going: bool) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"nodeName": node, "containers": []},
            "status": {"podIP": format!("10.0.0.{created}"), "phase": "Running",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_newest_that_is_ready_and_stays_comes_first() {
        let pods = [
            pod("old", "n", true, 1, false),
            pod("newest-starting", "n", false, 9, false),
            pod("new", "n", true, 5, false),
            pod("going", "n", true, 7, true),
            pod("elsewhere", "m", true, 8, false),
        ];
        let names: Vec<String> = rank(&pods, "n").into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["new", "old", "going", "newest-starting"]);
        assert!(rank(&pods, "x").is_empty());
    }

    #[test]
    fn a_pod_that_is_over_or_has_no_address_cannot_answer() {
        let mut over = pod("over", "n", true, 1, false);
        over.status.as_mut().unwrap().phase = Some("Failed".into());
        let mut addressless = pod("addressless", "n", true, 2, false);
        addressless.status.as_mut().unwrap().pod_ip = None;
        assert!(rank(&[over, addressless], "n").is_empty());
    }
}
