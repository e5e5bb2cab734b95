//! What a Job of an install strategy has come to. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_rollout::observed::{StrategyJob, StrategyJobState};
use kubevirt_types::labels;
use serde_json::Value;

use crate::handle::handle;
use crate::pods::trouble;

/// Label with which a Job's controller marks its pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The facts of a Job, with what its pods say; none of a Job that isn't an install strategy's.
pub fn job(object: &Value, pods: &[Value]) -> Option<StrategyJob> {
    let handle = handle(object)?;
    let job: Job = serde_json::from_value(object.clone()).ok()?;
    let deployment_id = job.metadata.annotations.as_ref()?.get(labels::INSTALL_IDENTIFIER)?.clone();
    let template = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let image = template.and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
    let pods: Vec<Pod> = pods
        .iter()
        .filter(|pod| pod["metadata"]["labels"][JOB_NAME].as_str() == Some(handle.key.name.as_str()))
        .filter_map(|pod| serde_json::from_value(pod.clone()).ok())
        .collect();
    let deleting = job.metadata.deletion_timestamp.is_some();
    Some(StrategyJob { handle, deployment_id, image, state: state(&job, &pods), deleting })
}

fn state(job: &Job, pods: &[Pod]) -> StrategyJobState {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is = |type_: &str| {
        conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let at = |condition: &k8s_openapi::api::batch::v1::JobCondition| {
        condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    };
    if let Some(complete) = is("Complete") {
        return StrategyJobState::Succeeded { at: at(complete) };
    }
    if let Some(failed) = is("Failed") {
        let message = pods.iter().find_map(last_words).or_else(|| failed.message.clone()).unwrap_or_default();
        return StrategyJobState::Failed { at: at(failed), message };
    }
    pods.iter().find_map(trouble).map_or(StrategyJobState::Running, StrategyJobState::Stuck)
}

/// What a container that failed has said.
fn last_words(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let words =
        statuses.iter().find_map(|status| status.state.as_ref()?.terminated.as_ref()?.message.clone());
    words.map(|words| words.trim().to_owned()).filter(|words| !words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(status: Value, pod: Value) -> StrategyJobState {
        let object = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": "j", "namespace": "kubevirt", "uid": "u", "resourceVersion": "1",
                "annotations": {labels::INSTALL_IDENTIFIER: "id"},
            },
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "kubevirt/virt-operator:v0.18.0"}]}}},
            "status": status,
        });
        let pod = json!({
            "metadata": {"name": "p", "labels": {JOB_NAME: "j"}}, "spec": {"containers": []}, "status": pod,
        });
        let job = job(&object, &[pod]).unwrap();
        assert_eq!(
            (job.deployment_id.as_str(), job.image.as_str()),
            ("id", "kubevirt/virt-operator:v0.18.0")
        );
        job.state
    }

    fn container(state: Value) -> Value {
        json!({"containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    #[test]
    fn table() {
        assert_eq!(of(json!({}), json!({})), StrategyJobState::Running);
        let stuck = of(json!({}), container(json!({"waiting": {"reason": "ImagePullBackOff"}})));
        assert!(matches!(stuck, StrategyJobState::Stuck(trouble) if trouble.image_missing()));
        let condition = |type_: &str| {
            json!({"conditions": [{
                "type": type_, "status": "True", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        };
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(of(condition("Complete"), json!({})), StrategyJobState::Succeeded { at });
        let failed = |message: &str| StrategyJobState::Failed { at, message: message.into() };
        assert_eq!(of(condition("Failed"), json!({})), failed("m"));
        let said = container(json!({"terminated": {"exitCode": 1, "message": "this image is v0.17.0\n"}}));
        assert_eq!(of(condition("Failed"), said), failed("this image is v0.17.0"));
    }
}
