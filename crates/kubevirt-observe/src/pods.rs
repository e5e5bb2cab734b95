//! What a pod says of itself. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod as ApiPod};
use kubevirt_rollout::observed::{Crash, Pod, Trouble};
use kubevirt_types::labels;
use serde::Deserialize;
use serde_json::Value;

/// Waiting for one of these reasons passes by itself.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Exit code of what was killed with SIGKILL.
const KILLED: i32 = 137;
/// Exit code of what ended by SIGTERM.
const STOPPED: i32 = 143;

/// The facts of a pod; none of a pod that has ended, or that the API server wouldn't store.
pub fn pod(object: &Value) -> Option<Pod> {
    let pod = ApiPod::deserialize(object).ok()?;
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
        ready_since: ready(&pod, "True"),
        unready_since: ready(&pod, "False"),
        deleting_since,
        restarts: statuses(&pod).map(|status| u32::try_from(status.restart_count).unwrap_or(0)).sum(),
        crash: statuses(&pod).filter_map(crash).max_by_key(|crash| crash.at),
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

/// Since when the condition Ready says this.
fn ready(pod: &ApiPod, status: &str) -> Option<jiff::Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == status)?;
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
            image: None,
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
    Some(Trouble {
        container: Some(status.name.clone()),
        reason,
        message: message.unwrap_or_default(),
        image: Some(status.image.clone()).filter(|image| !image.is_empty()),
    })
}

/// The last end of a container that was its own fault. Killed (137, unless it took too much memory), told to stop (143)
/// and lost with its node are not.
fn crash(status: &ContainerStatus) -> Option<Crash> {
    let ended = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let last = ended(&status.state).or_else(|| ended(&status.last_state))?;
    let reason = last.reason.clone().unwrap_or_default();
    let killed = last.exit_code == KILLED && reason != "OOMKilled";
    let lost = reason == "Unknown" || reason == "ContainerStatusUnknown";
    if last.exit_code == 0 || killed || lost || last.exit_code == STOPPED {
        return None;
    }
    let words = last.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    let reason = if reason.is_empty() || reason == "Error" { String::new() } else { format!("{reason}, ") };
    Some(Crash {
        container: status.name.clone(),
        message: format!("{reason}exit code {}{words}", last.exit_code),
        at: last.finished_at.as_ref()?.0,
    })
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
    fn a_crash_is_the_containers_own_fault() {
        let crash = |reason: &str, code: i32, message: Option<&str>| {
            let ended = json!({"terminated": {
                "exitCode": code, "reason": reason, "message": message, "finishedAt": "2026-01-01T00:01:00Z",
            }});
            let mut of = status(json!({"running": {}}));
            of["containerStatuses"][0]["lastState"] = ended;
            pod(&object(of)).unwrap().crash.map(|crash| crash.message)
        };
        assert_eq!(crash("Error", 1, None).as_deref(), Some("exit code 1"));
        assert_eq!(
            crash("Error", 101, Some("it is broken\n")).as_deref(),
            Some("exit code 101: it is broken")
        );
        assert_eq!(crash("OOMKilled", 137, None).as_deref(), Some("OOMKilled, exit code 137"));
        for (reason, code) in [("Error", 137), ("Error", 143), ("Completed", 0), ("Unknown", 255)] {
            assert_eq!(crash(reason, code, None), None, "{reason} {code}");
        }
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
        assert_eq!(trouble.message, "exit code 3");
        let unscheduled = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]});
        let trouble = pod(&object(unscheduled)).unwrap().trouble.unwrap();
        assert_eq!((trouble.container, trouble.reason.as_str()), (None, "Unschedulable"));
    }
}
