//! vnc/screenshot: a picture of a guest's screen, as a PNG.

use axum::body::Bytes;
use axum::extract::{Query, State};
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use serde::Deserialize;

use super::{Name, Shared};
use crate::handler::HandlerError;
use crate::instance::{Stream, stream_node};
use crate::refusal::{Refusal, Subject};

/// What a client may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Look {
    /// Wake the guest's screen by moving its pointer.
    move_cursor: bool,
}

type Asked = Result<Query<Look>, axum::extract::rejection::QueryRejection>;

/// Takes a picture.
pub async fn screenshot(
    State(app): Shared,
    name: Name,
    asked: Asked,
) -> Result<([(HeaderName, &'static str); 1], Bytes), Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad_request(error.body_text()))?;
    let (namespace, name) = &name.0;
    let vmi = app.vmi(namespace, name).await?;
    let node = stream_node(&vmi, Stream::Vnc)?;
    let pods = app.view.handlers(&node);
    let picture = app.handlers.screenshot(&node, &pods, (namespace, name), asked.move_cursor).await;
    let picture = picture.map_err(|error| refusal(name, &node, &error))?;
    Ok(([(CONTENT_TYPE, "image/png")], picture))
}

fn refusal(name: &str, node: &str, error: &HandlerError) -> Refusal {
    match error {
        HandlerError::None { .. } => Refusal::bad_request(error.to_string()),
        HandlerError::Refused { status: StatusCode::CONFLICT, message, .. } => {
            Refusal::conflict(Subject::vmi(name), message)
        }
        // Not the instance is unknown there, but the path: a virt-handler says in words whom it doesn't know.
        HandlerError::Refused { status: StatusCode::NOT_FOUND, message, .. } if message.is_empty() => {
            let why = format!(
                "virt-handler on node {node} is of a release that takes no screenshots: update KubeVirt, or try \
                 again when the update is over"
            );
            Refusal::new(StatusCode::NOT_IMPLEMENTED, why)
        }
        // Our request is in order: it is the launcher that is of a release without.
        HandlerError::Refused { status: StatusCode::BAD_REQUEST, message, .. } => {
            let why = format!("no screenshot: {message}: restart the virtual machine, or migrate it");
            Refusal::new(StatusCode::NOT_IMPLEMENTED, why)
        }
        // It isn't there any more, or not yet.
        HandlerError::Refused {
            status: StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
            message,
            ..
        } => {
            let why = format!("no screenshot: {message}: try again");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        HandlerError::Connect { .. } | HandlerError::Cut { .. } | HandlerError::Refused { .. } => {
            Refusal::internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_virt_handler_says_is_told_with_what_to_do() {
        let refused = |status, message: &str| HandlerError::Refused {
            handler: "h".into(),
            status,
            message: message.into(),
        };
        for (error, expected) in [
            (refused(StatusCode::NOT_FOUND, ""), "501 virt-handler on node n is of a release that takes no"),
            (refused(StatusCode::NOT_FOUND, "a moves away"), "503 no screenshot: a moves away: try again"),
            (
                refused(StatusCode::BAD_REQUEST, "the launcher (release v0.17.0) can't take a screenshot"),
                "501 no screenshot: the launcher (release v0.17.0) can't take a screenshot: restart",
            ),
            (
                refused(StatusCode::CONFLICT, "it has no screen"),
                "409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"a\": it has no screen",
            ),
            (refused(StatusCode::GATEWAY_TIMEOUT, "it is slow"), "503 no screenshot: it is slow: try again"),
            (
                refused(StatusCode::INTERNAL_SERVER_ERROR, "QEMU refused screendump"),
                "500 Internal error occurred: virt-handler h: QEMU refused screendump",
            ),
            (refused(StatusCode::SERVICE_UNAVAILABLE, "it broke"), "503 no screenshot: it broke: try again"),
            (HandlerError::None { node: "n".into() }, "400 no virt-handler on node n"),
        ] {
            let refusal = refusal("a", "n", &error);
            let said = format!("{} {}", refusal.code.as_u16(), refusal.message);
            assert!(said.starts_with(expected), "{said}");
        }
    }
}
