//! What a pod says of itself. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as ApiPod};
use kubevirt_rollout::observed::{Pod, Trouble};
use kubevirt_types::labels;
use serde_json::Value;

/// Waiting for one of these reasons passes by itself.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The facts of a pod; none of a pod that has ended, or that the API server wouldn't store.
pub fn pod(object: &Value) -> Option<Pod> {
    let pod: ApiPod = serde_json::from_value(object.clone()).ok()?;
    // What has ended acts no more, and its controller has made another. An evicted pod stays like this for good.
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return None;
    }
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let deleting_since = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .and_then(|at| at.0.checked_sub(jiff::SignedDuration::from_secs(grace)).ok());
    let template_hash = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(labels::TEMPLATE_HASH))
        .cloned();
    Some(Pod {
        component: label(labels::APP)?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        node: node(&pod),
        template_hash,
        release: label(labels::REPORT_VERSION).and_then(|version| version.parse().ok()),
        created: pod.metadata.creation_timestamp.as_ref()?.0,
        ready_since: ready_since(&pod),
        deleting_since,
        restarts: statuses(&pod).map(|status| u32::try_from(status.restart_count).unwrap_or(0)).sum(),
        trouble: trouble(&pod),
    })
}

/// The node of a pod: where it is bound, or where its DaemonSet wants it.
fn node(pod: &ApiPod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let bound = spec.node_name.clone().filter(|name| !name.is_empty());
    bound.or_else(|| {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let wanted = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        wanted
            .node_selector_terms
            .iter()
            .flat_map(|term| term.match_fields.iter().flatten())
            .find(|field| field.key == "metadata.name")
            .and_then(|field| field.values.as_ref()?.first().cloned())
    })
}

fn ready_since(pod: &ApiPod) -> Option<jiff::Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|at| at.0)
}

/// The states of a pod's containers, init containers first.
fn statuses(pod: &ApiPod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// Why a pod doesn't get on, where that won't pass by itself.
pub fn trouble(pod: &ApiPod) -> Option<Trouble> {
    statuses(pod).find_map(container_trouble).or_else(|| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let unscheduled = conditions
            .iter()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some(Trouble {
            container: None,
            reason: unscheduled.reason.clone().unwrap_or_default(),
            message: unscheduled.message.clone().unwrap_or_default(),
        })
    })
}

fn container_trouble(status: &ContainerStatus) -> Option<Trouble> {
    let state = status.state.as_ref()?;
    let (reason, message) = if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().filter(|reason| !PASSING.contains(&reason.as_str()))?;
        (reason, waiting.message.clone())
    } else {
        let terminated = state.terminated.as_ref().filter(|terminated| terminated.exit_code != 0)?;
        let exit = || format!("exit code {}", terminated.exit_code);
        (
            terminated.reason.clone().unwrap_or_else(|| "Error".into()),
            terminated.message.clone().or_else(|| Some(exit())),
        )
    };
    Some(Trouble { container: Some(status.name.clone()), reason, message: message.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(status: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "virt-handler-x", "namespace": "kubevirt", "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"kubevirt.io": "virt-handler", "kubevirt.io/version": "v0.18.0"},
                "annotations": {labels::TEMPLATE_HASH: "abc"},
            },
            "spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker-1"]}]}]}}}},
            "status": status,
        })
    }

    fn status(state: Value) -> Value {
        json!({"containerStatuses": [{
            "name": "virt-handler", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state,
        }]})
    }

    #[test]
    fn a_pod_tells_where_it_belongs_and_since_when_it_is_ready() {
        let ready = json!({"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}]});
        let pod = pod(&object(ready)).unwrap();
        assert_eq!(pod.component, "virt-handler");
        assert_eq!(pod.node.as_deref(), Some("worker-1"));
        assert_eq!(pod.template_hash.as_deref(), Some("abc"));
        assert_eq!(pod.release, Some(kubevirt_types::Release::V0_18_0));
        assert_eq!(pod.ready_since, Some("2026-01-01T00:00:30Z".parse().unwrap()));
        assert!(pod.serves());
    }

    #[test]
    fn an_evicted_pod_holds_nothing_up() {
        for phase in ["Failed", "Succeeded"] {
            assert_eq!(pod(&object(json!({"phase": phase, "reason": "Evicted"}))), None);
        }
        assert!(pod(&object(json!({"phase": "Running"}))).is_some());
    }

    #[test]
    fn deletion_was_asked_for_before_the_grace() {
        let mut object = object(json!({}));
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = json!(3600);
        assert_eq!(pod(&object).unwrap().deleting_since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn trouble_is_what_does_not_pass() {
        let of = |state: Value| pod(&object(status(state))).unwrap();
        assert_eq!(of(json!({"waiting": {"reason": "ContainerCreating"}})).trouble, None);
        assert_eq!(of(json!({"running": {}})).trouble, None);
        assert_eq!(of(json!({"terminated": {"exitCode": 0}})).trouble, None);
        assert_eq!(of(json!({"running": {}})).restarts, 2);
        let trouble =
            of(json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}})).trouble.unwrap();
        assert!(trouble.image_missing());
        assert_eq!(trouble.message, "no such image");
        let trouble = of(json!({"terminated": {"exitCode": 3, "reason": "Error"}})).trouble.unwrap();
        assert!(trouble.crashes());
        assert_eq!(trouble.message, "exit code 3");
        let unscheduled = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]});
        let trouble = pod(&object(unscheduled)).unwrap().trouble.unwrap();
        assert_eq!((trouble.container, trouble.reason.as_str()), (None, "Unschedulable"));
    }
}
