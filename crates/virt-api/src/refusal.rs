//! A request that is refused: the `Status` object that Kubernetes clients understand.
//!
//! Owns codes, reasons and the wording that clients compare; decides nothing.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

/// What is said to have been refused, in `details`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// KubeVirt's singular resource name, such as `virtualmachine`.
    pub resource: &'static str,
    /// The object's name.
    pub name: String,
}

impl Subject {
    /// A virtual machine.
    pub fn vm(name: &str) -> Self {
        Self { resource: "virtualmachine", name: name.to_owned() }
    }

    /// An instance.
    pub fn vmi(name: &str) -> Self {
        Self { resource: "virtualmachineinstance", name: name.to_owned() }
    }
}

/// One reason among several, with the field that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Kubernetes' word for it, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: StatusCode,
    /// Kubernetes' word for it, such as `Conflict`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// What it is about.
    pub subject: Option<Subject>,
    /// The single reasons of an invalid object.
    pub causes: Vec<Cause>,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, reason: reason_of(code), message: message.into(), subject: None, causes: vec![] }
    }

    /// 400: the request can't be carried out as it is.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: nobody vouches for who is asking.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: known, and not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404 of a path.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "the server could not find the requested resource")
    }

    /// 404 of an object.
    pub fn not_found(subject: Subject) -> Self {
        let message = format!("{}.kubevirt.io {:?} not found", subject.resource, subject.name);
        Self { subject: Some(subject), ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    /// 409: the object's state doesn't allow it.
    pub fn conflict(subject: Subject, why: impl AsRef<str>) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {}.kubevirt.io {:?}: {}",
            subject.resource,
            subject.name,
            why.as_ref()
        );
        Self { subject: Some(subject), ..Self::new(StatusCode::CONFLICT, message) }
    }

    /// 422: fields are wrong; every cause is named.
    pub fn invalid(causes: Vec<Cause>) -> Self {
        let message =
            causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ");
        Self { causes, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, message) }
    }

    /// 500: something that we rely on failed.
    pub fn internal(what: impl AsRef<str>) -> Self {
        let message = format!("Internal error occurred: {}", what.as_ref());
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        let mut details = serde_json::Map::new();
        if let Some(subject) = &self.subject {
            details.insert("name".into(), json!(subject.name));
            details.insert("group".into(), json!(kubevirt_types::GROUP));
            details.insert("kind".into(), json!(subject.resource));
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect();
            details.insert("causes".into(), Value::Array(causes));
        }
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (self.code, json, self.status().to_string()).into_response()
    }
}

/// Kubernetes' reason for an HTTP status.
fn reason_of(code: StatusCode) -> &'static str {
    match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_kubernetes() {
        let conflict = Refusal::conflict(Subject::vm("a"), "VM is already running");
        assert_eq!(
            conflict.status(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"a\": VM is already running",
                "reason": "Conflict", "code": 409,
                "details": {"name": "a", "group": "kubevirt.io", "kind": "virtualmachine"},
            })
        );
        let missing = Refusal::not_found(Subject::vmi("b"));
        assert_eq!(missing.message, "virtualmachineinstance.kubevirt.io \"b\" not found");
    }

    #[test]
    fn an_invalid_object_names_every_cause() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired",
            message: "Required value".into(),
            field: field.into(),
        };
        let refusal = Refusal::invalid(vec![cause("spec.a"), cause("spec.b")]);
        assert_eq!(refusal.message, "spec.a: Required value; spec.b: Required value");
        assert_eq!(refusal.status()["details"]["causes"][1]["field"], "spec.b");
        assert_eq!(refusal.status()["reason"], "Invalid");
    }
}
