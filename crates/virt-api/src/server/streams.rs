//! console and vnc: virt-handler is asked first, so that its refusal is an answer; only then the client's
//! connection becomes a websocket.

use axum::extract::{FromRequestParts, Query, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode};
use kubevirt_runtime::serve::StreamTracker;
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::websocket::Upgrade;
use serde::Deserialize;

use super::admit::session_id;
use super::{Name, Shared};
use crate::handler::{HandlerError, StreamRequest};
use crate::instance::Stream;
use crate::refusal::Refusal;
use crate::session::{self, OpenError};

/// What a client may ask for. Stock clients know only `preserveSession`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    session: Option<String>,
    resume_from: Option<u64>,
    preserve_session: bool,
    counts: bool,
}

/// Opens a stream.
pub async fn open(
    State(app): Shared,
    name: Name,
    stream: Stream,
    request: Request,
) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let asked = Query::<Asked>::from_request_parts(&mut parts, &app).await;
    let Query(asked) = asked.map_err(|error| Refusal::bad_request(error.body_text()))?;
    let (namespace, name) = name.0;
    let wanted = StreamRequest {
        stream,
        namespace,
        name,
        comes_back: asked.session.is_some(),
        session: session(asked.session)?,
        resume_from: asked.resume_from,
        preserve_session: asked.preserve_session,
        counts: asked.counts,
    };
    let streams = parts.extensions.get::<StreamTracker>().cloned();
    let streams = streams.ok_or_else(|| Refusal::internal("no one keeps count of streams here"))?;
    session::check(&app, &wanted).await?;
    let mut request = Request::from_parts(parts, body);
    let upgrade =
        Upgrade::from_request(&mut request).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let found = session::open(&app, &wanted).await.map_err(|error| refusal(error, wanted.is_again()))?;
    let mut response: Response = upgrade.response();
    if let Some(offset) = found.opened.offset {
        response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(offset));
    }
    if let Some(received) = found.received(&wanted) {
        response.headers_mut().insert(RECEIVED_HEADER, HeaderValue::from(received));
    }
    let stop = streams.stop().clone();
    streams.spawn(async move {
        match upgrade.websocket().await {
            Ok(client) => session::carry(app, wanted, client, found, stop).await,
            Err(error) => tracing::info!(%error, "the client went before its stream began"),
        }
    });
    Ok(response)
}

/// The client's own session, or a new one. It goes into a URL.
fn session(asked: Option<String>) -> Result<String, Refusal> {
    let Some(session) = asked else { return Ok(session_id()) };
    let fits = (1..=64).contains(&session.len())
        && session.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if fits {
        Ok(session)
    } else {
        let why = "session: Invalid value: must be at most 64 letters, digits, '-' and '_'";
        Err(Refusal::bad_request(why))
    }
}

/// What a client is told that gets no stream. `again` to one that had it before.
fn refusal(error: OpenError, again: bool) -> Refusal {
    match error {
        OpenError::Refused(refusal) => *refusal,
        OpenError::Ended => Refusal::bad_request("VMI is not running"),
        OpenError::Handler(error) => {
            let message = match &error {
                // The one refusal on which a stock `virtctl console` asks again; to who had a stream it would be the last word.
                HandlerError::None { .. } if !again => return Refusal::bad_request(error.to_string()),
                HandlerError::None { .. } => error.to_string(),
                HandlerError::Refused { status, message, .. } => {
                    format!("Can't connect to websocket ({}): {message}", status.as_u16())
                }
                HandlerError::Connect { .. } | HandlerError::Cut { .. } => {
                    format!("Can't connect to websocket: {error}")
                }
            };
            // A launcher that has just died, or a virt-handler that is being replaced: asking again helps.
            if error.may_pass() || error.is_unready() {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
            } else {
                Refusal::internal(message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_said_to_be_unavailable() {
        let refused = |status, message: &str| {
            let handler = "a".to_owned();
            let error = HandlerError::Refused { handler, status, message: message.to_owned() };
            refusal(OpenError::Handler(error), false).status()["code"].clone()
        };
        let (gone, taken) = ("the launcher is gone", "Active VNC connection. Request denied.");
        for (status, message, said) in [
            (StatusCode::SERVICE_UNAVAILABLE, gone, StatusCode::SERVICE_UNAVAILABLE),
            (StatusCode::GATEWAY_TIMEOUT, gone, StatusCode::SERVICE_UNAVAILABLE),
            (StatusCode::NOT_FOUND, gone, StatusCode::SERVICE_UNAVAILABLE),
            (StatusCode::SERVICE_UNAVAILABLE, taken, StatusCode::INTERNAL_SERVER_ERROR),
            (StatusCode::INTERNAL_SERVER_ERROR, gone, StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            assert_eq!(refused(status, message), said.as_u16(), "{status} {message}");
        }
    }

    #[test]
    fn who_had_a_stream_waits_for_a_virt_handler_and_who_is_new_asks_again() {
        for (again, code) in [(false, StatusCode::BAD_REQUEST), (true, StatusCode::SERVICE_UNAVAILABLE)] {
            let none = HandlerError::None { node: "n".into() };
            let refusal = refusal(none.into(), again);
            assert_eq!((refusal.code, refusal.message.as_str()), (code, "no virt-handler on node n"));
        }
    }

    #[test]
    fn a_session_is_safe_in_a_url() {
        assert_eq!(session(Some("a-B_9".into())).unwrap(), "a-B_9");
        for bad in ["", "a b", "a&resumeFrom=1", "ä", &"x".repeat(65)] {
            assert!(session(Some(bad.into())).is_err(), "{bad}");
        }
    }
}
