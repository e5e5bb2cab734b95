//! Opens the stream of an instance: the first request is the websocket itself.

use http::{HeaderMap, Request, StatusCode};
use kube::client::Body;
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::relay::HALF_CLOSE_HEADER;
use kubevirt_stream::websocket::{DialError, Handshake, WebSocket};
use serde::Deserialize;

use crate::cluster::{Cluster, words};

/// There is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{}", words(.0))]
    Request(Box<kube::Error>),
    #[error("the name makes no URL")]
    Name(#[from] http::Error),
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("can't open the stream")]
    Dial(#[source] DialError),
}

/// How a launcher of any release ends its refusal of what somebody else has.
const TAKEN: &str = "connection. Request denied.";
/// What a virt-api of any release says while a node has no virt-handler; some say it with 400, as if the instance didn't run.
const NO_HANDLER: &str = "no virt-handler on node";

impl OpenError {
    /// Whether somebody else has the stream, and keeps it.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.ends_with(TAKEN))
    }

    /// Whether it is only that nobody on the instance's node can be asked just now.
    pub(crate) fn is_unattended(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains(NO_HANDLER))
    }
}

/// An open stream.
pub(crate) struct Opened {
    pub(crate) websocket: WebSocket,
    /// Offset of the first byte that comes; none from a server that can't resume.
    pub(crate) offset: Option<u64>,
    /// How many bytes of the session were taken before; none from a server that doesn't count.
    pub(crate) received: Option<u64>,
    /// Whether it can be told that nothing more is sent.
    pub(crate) half_closes: bool,
}

/// Opens `/virtualmachineinstances/NAME/PATH`, which may have a query.
pub(crate) async fn open(cluster: &Cluster, name: &str, path: &str) -> Result<Opened, OpenError> {
    open_path(cluster, &cluster.path("virtualmachineinstances", name, path)).await
}

/// Opens the stream at a path.
pub(crate) async fn open_path(cluster: &Cluster, path: &str) -> Result<Opened, OpenError> {
    let handshake = Handshake::default();
    let mut request = Request::get(path).body(Body::empty())?;
    handshake.add_to(request.headers_mut());
    let response = cluster.send(request).await.map_err(|error| OpenError::Request(Box::new(error)))?;
    let (offset, received) =
        (number(response.headers(), OFFSET_HEADER), number(response.headers(), RECEIVED_HEADER));
    let half_closes = response.headers().contains_key(HALF_CLOSE_HEADER);
    let websocket = handshake.finish(response).await.map_err(|error| match error {
        DialError::Refused { status, content_type, body } => {
            OpenError::Refused { status, message: refusal(status, content_type.as_deref(), &body) }
        }
        other => OpenError::Dial(other),
    })?;
    Ok(Opened { websocket, offset, received, half_closes })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[derive(Deserialize)]
struct Status {
    message: String,
}

/// A Status speaks for itself; anything else is quoted.
fn refusal(status: StatusCode, content_type: Option<&str>, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    match serde_json::from_slice::<Status>(body) {
        Ok(said) if !said.message.is_empty() => said.message,
        Ok(_) | Err(_) => {
            let code = status.as_u16();
            let reason = status.canonical_reason().unwrap_or_default();
            let plain = content_type.is_none_or(|kind| kind.starts_with("text/")) && !text.is_empty();
            if plain {
                format!("Can't connect to websocket ({code}): {reason}: application info: {text}")
            } else {
                format!("Can't connect to websocket ({code}): {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_said_in_the_servers_words() {
        let status = br#"{"kind":"Status","message":"VMI is not running","code":400}"#;
        let cases: [(u16, &str, &[u8], &str); 3] = [
            (400, "application/json", status, "VMI is not running"),
            (
                401,
                "text/plain",
                b"not allowed\n",
                "Can't connect to websocket (401): Unauthorized: application info: not allowed",
            ),
            (503, "text/html; charset=utf-8", b"", "Can't connect to websocket (503): Service Unavailable"),
        ];
        for (code, kind, body, expected) in cases {
            assert_eq!(refusal(StatusCode::from_u16(code).unwrap(), Some(kind), body), expected);
        }
    }
}
