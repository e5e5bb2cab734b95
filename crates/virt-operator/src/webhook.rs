//! The webhooks for KubeVirt objects. Every replica serves them, leading or not.
//!
//! Carries a question to the pure answers of `kubevirt_rollout::admission` and back.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use futures::FutureExt;
use kube::Client;
use kubevirt_observe::kinds::CRD;
use kubevirt_observe::{Source, ask};
use kubevirt_rollout::admission::{
    FieldError, Workloads, read, validate_create, validate_delete, validate_update,
};
use kubevirt_rollout::observed::Operator;
use kubevirt_types::{Kind, KubeVirt};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cache::Cache;

/// No KubeVirt object is larger; the API server's own limit is 1.5 MiB.
const BODY_LIMIT: usize = 3 << 20;
/// The API server waits for 10 s; an answer of ours says more than its timeout.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// What the webhooks look at.
#[derive(Clone)]
pub struct Webhooks {
    /// Asks for what has to be known exactly.
    pub client: Client,
    /// Knows which of our kinds are defined.
    pub cache: Cache,
    /// The operator: its release and namespace are where nothing else is asked for.
    pub operator: Operator,
}

/// The three paths.
pub fn router(webhooks: Webhooks) -> Router {
    Router::new()
        .route("/kubevirt-validate-create", post(create))
        .route("/kubevirt-validate-update", post(update))
        .route("/kubevirt-validate-delete", post(delete))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(webhooks)
}

async fn create(State(webhooks): State<Webhooks>, Json(review): Json<Value>) -> Json<Value> {
    let verdict = match read(&review["request"]["object"]) {
        Ok(new) => match in_time(ask::kubevirts(&webhooks.client)).await {
            Ok(existing) => Ok(validate_create(&new, !existing.is_empty(), &webhooks.operator)),
            Err(why) => Err(why),
        },
        Err(unreadable) => Ok(vec![unreadable]),
    };
    Json(answer(&review, verdict))
}

async fn update(State(webhooks): State<Webhooks>, Json(review): Json<Value>) -> Json<Value> {
    Json(answer(&review, judge_update(&review, &webhooks.operator)))
}

fn judge_update(review: &Value, operator: &Operator) -> Result<Vec<FieldError>, String> {
    let old = old_object(review)?;
    Ok(match read(&review["request"]["object"]) {
        Ok(new) => validate_update(&old, &new, operator),
        Err(unreadable) => vec![unreadable],
    })
}

async fn delete(State(webhooks): State<Webhooks>, Json(review): Json<Value>) -> Json<Value> {
    let verdict = match old_object(&review) {
        Ok(old) => {
            let definitions = webhooks.cache.of_kind(CRD);
            let counted = in_time(ask::instances(&webhooks.client, &definitions, false)).await;
            let counted = counted.inspect_err(|why| tracing::warn!(why, "workloads can't be counted"));
            Ok(validate_delete(&old, workloads(counted.ok().as_ref())))
        }
        Err(why) => Err(why),
    };
    Json(answer(&review, verdict))
}

/// Waits as long as an answer is of use.
async fn in_time<T, E: std::error::Error>(asking: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    timeout(ANSWER_LIMIT, asking)
        .map(|answer| match answer {
            Ok(Ok(known)) => Ok(known),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs())),
        })
        .await
}

/// How many workloads there are. A kind that isn't defined has none.
fn workloads(
    counted: Option<&std::collections::BTreeMap<String, kubevirt_rollout::observed::Instances>>,
) -> Workloads {
    let count = |kind: Kind| Some(counted?.get(kind.plural()).map_or(0, |instances| instances.count));
    Workloads {
        instances: count(Kind::VirtualMachineInstance),
        machines: count(Kind::VirtualMachine),
        replica_sets: count(Kind::VirtualMachineInstanceReplicaSet),
    }
}

/// The object as it is stored, or why it can't be read, for which whoever changes it is not to blame.
fn old_object(review: &Value) -> Result<KubeVirt, String> {
    read(&review["request"]["oldObject"]).map_err(|error| format!("oldObject: {error}"))
}

/// The review with its answer: a yes, a refusal that names every field, or that we can't tell.
fn answer(review: &Value, verdict: Result<Vec<FieldError>, String>) -> Value {
    let status = match verdict {
        Ok(errors) if errors.is_empty() => None,
        Ok(errors) => {
            let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let causes: Vec<Value> = errors.iter().filter_map(cause).collect();
            let (code, reason) =
                if causes.len() == errors.len() { (422, "Invalid") } else { (403, "Forbidden") };
            Some(status(code, reason, &message, &causes))
        }
        Err(why) => Some(status(500, "InternalError", &why, &[])),
    };
    let mut response = json!({"uid": review["request"]["uid"], "allowed": status.is_none()});
    if let Some(status) = status {
        response["status"] = status;
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// What is wrong with one field; none where the request is wrong as a whole.
fn cause(error: &FieldError) -> Option<Value> {
    match error {
        FieldError::Invalid { field, value, detail } => Some(json!({
            "reason": "FieldValueInvalid",
            "field": field,
            "message": format!("Invalid value: {value:?}: {detail}"),
        })),
        FieldError::Forbidden { .. } => None,
    }
}

fn status(code: u16, reason: &str, message: &str, causes: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": message, "details": {"causes": causes},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;

    fn review(object: &Value) -> Value {
        json!({"request": {"uid": "u", "object": object, "oldObject": {"metadata": {}, "spec": {}}}})
    }

    #[test]
    fn a_yes_is_only_that() {
        let answer = answer(&review(&json!({})), Ok(vec![]));
        assert_eq!(answer["response"], json!({"uid": "u", "allowed": true}));
        assert_eq!(answer["kind"], "AdmissionReview");
    }

    fn judged(object: &Value) -> Value {
        let operator =
            Operator { release: Release::V0_18_0, registry: "kubevirt".into(), namespace: "kubevirt".into() };
        let review = review(object);
        answer(&review, judge_update(&review, &operator))["response"].clone()
    }

    #[test]
    fn a_refusal_names_the_field_and_what_is_expected() {
        let patch = json!({"resourceType": "Deployment", "resourceName": "virt-operator", "patch": "{}"});
        let cases = [
            (json!({"imageTag": "foo"}), "spec.imageTag", "such as v0.18.0"),
            (
                json!({"updateStrategy": {"soakSeconds": 9999}}),
                "spec.updateStrategy.soakSeconds",
                "at most 3600",
            ),
            (
                json!({"customizeComponents": {"patches": [patch]}}),
                "spec.customizeComponents.patches[0].resourceName",
                "expected virt-api, virt-controller, virt-handler or *",
            ),
            (
                json!({"updateStrategy": {"onFailure": "x"}}),
                "spec.updateStrategy.onFailure",
                "`Rollback` or `Pause`",
            ),
            (json!(1), "spec", "expected struct KubeVirtSpec"),
        ];
        for (spec, field, expected) in cases {
            let response = judged(&json!({"metadata": {}, "spec": spec}));
            assert_eq!(
                (&response["allowed"], &response["status"]["code"]),
                (&json!(false), &json!(422)),
                "{spec}"
            );
            assert_eq!(response["status"]["details"]["causes"][0]["field"], field);
            let message = response["status"]["message"].as_str().unwrap();
            assert!(message.starts_with(field) && message.contains(expected), "{message}");
        }
        assert_eq!(judged(&json!({"metadata": {}, "spec": {"imageTag": "v0.17.0"}}))["allowed"], true);
    }

    #[test]
    fn a_stored_object_that_cannot_be_read_is_nobodys_fault() {
        let mut review = review(&json!({"metadata": {}, "spec": {}}));
        review["request"]["oldObject"] = json!({"metadata": {}, "spec": 1});
        let why = old_object(&review).unwrap_err();
        assert!(why.starts_with("oldObject: spec: Invalid value: \"1\""), "{why}");
        assert_eq!(answer(&review, Err(why))["response"]["status"]["code"], 500);
    }

    #[test]
    fn a_request_that_is_wrong_as_a_whole_is_forbidden() {
        let error = FieldError::Forbidden { detail: "Kubevirt is already created".into() };
        let answer = answer(&review(&json!({})), Ok(vec![error]));
        assert_eq!(answer["response"]["status"]["code"], 403);
        assert_eq!(answer["response"]["status"]["message"], "Kubevirt is already created");
    }

    #[test]
    fn not_counted_is_not_none() {
        assert_eq!(workloads(None), Workloads::default());
        let none = workloads(Some(&std::collections::BTreeMap::new()));
        assert_eq!(none, Workloads { instances: Some(0), machines: Some(0), replica_sets: Some(0) });
    }
}
