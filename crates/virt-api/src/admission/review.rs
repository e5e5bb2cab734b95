//! `AdmissionReview` as it goes over the wire, reduced to what our hooks read and answer.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::refusal::Refusal;

/// What the API server asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Identifies the question in the answer.
    pub uid: String,
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: Operation,
    /// The object's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The object's name; empty where the API server is to make one.
    #[serde(default)]
    pub name: String,
    /// Whether nothing may change.
    #[serde(default)]
    pub dry_run: bool,
    /// Who asks.
    #[serde(default)]
    pub user_info: UserInfo,
    /// The object as it would be; null for a deletion.
    #[serde(default)]
    pub object: Value,
    /// The object as it is; null for a creation.
    #[serde(default)]
    pub old_object: Value,
}

/// What is to be done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Who asks.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct UserInfo {
    /// The user's name.
    #[serde(default)]
    pub username: String,
}

/// What a hook says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// As it is.
    Admit,
    /// After this JSON patch.
    Patch(json_patch::Patch),
    /// Not at all.
    Refuse(Refusal),
}

/// The body is no `AdmissionReview`.
#[derive(Debug, thiserror::Error)]
#[error("the body is no AdmissionReview of admission.k8s.io/v1")]
pub struct ParseReviewError(#[from] serde_json::Error);

/// Reads the question out of a body.
pub fn parse(body: &[u8]) -> Result<Request, ParseReviewError> {
    #[derive(Deserialize)]
    struct Review {
        request: Request,
    }
    Ok(serde_json::from_slice::<Review>(body)?.request)
}

/// The answer to the question with this uid.
pub fn answer(uid: &str, verdict: &Verdict) -> Value {
    let mut response = json!({"uid": uid, "allowed": !matches!(verdict, Verdict::Refuse(_))});
    match verdict {
        Verdict::Admit => {}
        Verdict::Patch(patch) => {
            let text = serde_json::to_vec(patch).expect("a JSON patch is JSON");
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(k8s_openapi::ByteString(text));
        }
        Verdict::Refuse(refusal) => response["status"] = refusal.status(),
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_question_and_writes_the_answer() {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "ns", "userInfo": {"username": "jane", "groups": []},
            "object": {"spec": {}}, "oldObject": null, "dryRun": true}});
        let request = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!((request.operation, request.user_info.username.as_str()), (Operation::Create, "jane"));
        let patch = json_patch::diff(&json!({}), &json!({"a": 1}));
        let answer = answer("u", &Verdict::Patch(patch));
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["patch"], "W3sib3AiOiJhZGQiLCJwYXRoIjoiL2EiLCJ2YWx1ZSI6MX1d");
    }

    #[test]
    fn a_refusal_carries_its_status() {
        let answer = answer("u", &Verdict::Refuse(Refusal::forbidden("no")));
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["status"]["code"], 403);
    }

    #[test]
    fn refuses_what_is_none() {
        for body in ["", "{}", r#"{"request": {"uid": "u", "operation": "EAT"}}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
