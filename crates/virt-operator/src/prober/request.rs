//! What is asked, and which answers are as they should be.

use std::time::Duration;

use http::Request;
use kube::Client;
use kubevirt_manifests::PROBE;
use kubevirt_rollout::report::ProbeKind;
use serde_json::{Value, json};

/// As long as a webhook may take.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The group that virt-api serves.
const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1";

/// Asks once, and says what was wrong with the answer.
pub async fn ask(kind: ProbeKind, client: &Client, namespace: &str) -> Option<String> {
    judge(kind, client.request_text(request(kind, namespace)).await)
}

fn request(kind: ProbeKind, namespace: &str) -> Request<Vec<u8>> {
    let built = match kind {
        ProbeKind::ApiServer => Request::get(SUBRESOURCES).body(vec![]),
        ProbeKind::Subresource => Request::get(format!(
            "{SUBRESOURCES}/namespaces/{namespace}/virtualmachineinstances/{PROBE}/vnc/screenshot"
        ))
        .body(vec![]),
        ProbeKind::Webhook => Request::post(format!(
            "/apis/{}/namespaces/{namespace}/virtualmachineinstances?dryRun=All",
            kubevirt_types::API_VERSION
        ))
        .header("Content-Type", "application/json")
        .body(instance(namespace).to_string().into_bytes()),
    };
    built.expect("a namespace makes a URL")
}

/// The least that any release admits.
fn instance(namespace: &str) -> Value {
    json!({
        "apiVersion": kubevirt_types::API_VERSION,
        "kind": "VirtualMachineInstance",
        "metadata": {"name": PROBE, "namespace": namespace},
        "spec": {"domain": {"devices": {}, "resources": {"requests": {"memory": "64Mi"}}}},
    })
}

/// What is wrong with an answer; none of one that is as it should be.
fn judge(kind: ProbeKind, answer: Result<String, kube::Error>) -> Option<String> {
    match (kind, answer) {
        (ProbeKind::ApiServer | ProbeKind::Webhook, Ok(_)) => None,
        // somebody has made an instance of that name
        (ProbeKind::Subresource, Ok(_)) => None,
        // virt-api's own word: another 404 is the API server's, who doesn't know virt-api
        (ProbeKind::Subresource, Err(kube::Error::Api(status)))
            if status.code == 404 && status.message.contains(PROBE) =>
        {
            None
        }
        // the name is taken: whoever says so has asked admission before
        (ProbeKind::Webhook, Err(kube::Error::Api(status))) if status.reason == "AlreadyExists" => None,
        (_, Err(kube::Error::Api(status))) => Some(format!("{}: {}", status.code, status.message)),
        (_, Err(error)) => Some(crate::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn refused(code: u16, reason: &str, message: &str) -> Result<String, kube::Error> {
        Err(kube::Error::Api(Box::new(Status::failure(message, reason).with_code(code))))
    }

    #[test]
    fn answers_are_judged_by_who_gave_them() {
        let unknown = "virtualmachineinstance.kubevirt.io \"kubevirt-update-probe\" not found";
        let nobody = "failed calling webhook \"x\": connection refused";
        let table = [
            (ProbeKind::ApiServer, Ok(String::new()), None),
            (ProbeKind::ApiServer, refused(503, "", "service unavailable"), Some("503: service unavailable")),
            (
                ProbeKind::ApiServer,
                refused(404, "NotFound", "404 page not found"),
                Some("404: 404 page not found"),
            ),
            (ProbeKind::Subresource, refused(404, "NotFound", unknown), None),
            (ProbeKind::Subresource, refused(404, "NotFound", "page not found"), Some("404: page not found")),
            (ProbeKind::Subresource, refused(403, "Forbidden", "you may not"), Some("403: you may not")),
            (ProbeKind::Webhook, Ok(String::new()), None),
            (ProbeKind::Webhook, refused(409, "AlreadyExists", "it exists"), None),
            (
                ProbeKind::Webhook,
                refused(500, "InternalError", nobody),
                Some("500: failed calling webhook \"x\": connection refused"),
            ),
        ];
        for (kind, answer, expected) in table {
            let said = format!("{kind}: {answer:?}");
            assert_eq!(judge(kind, answer).as_deref(), expected, "{said}");
        }
    }

    #[test]
    fn nothing_is_asked_that_would_be_stored() {
        for kind in ProbeKind::ALL {
            let request = request(kind, "ns");
            let stores = request.method() != http::Method::GET;
            assert!(!stores || request.uri().query() == Some("dryRun=All"), "{kind}");
        }
    }
}
