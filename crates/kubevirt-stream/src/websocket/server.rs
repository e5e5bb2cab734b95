//! The server's side of the handshake.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{PLAIN, WebSocket, config};

/// A request that asks for a websocket, checked.
#[derive(Debug)]
pub struct Upgrade {
    accept: HeaderValue,
    plain: bool,
    connection: OnUpgrade,
}

/// A request doesn't ask for a websocket properly: answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAWebsocket {
    #[allow(missing_docs)]
    #[error("websocket: request method is not GET")]
    Method,
    #[allow(missing_docs)]
    #[error(
        "websocket: the client is not using the websocket protocol: '{header}' token not found in '{name}' header"
    )]
    Token { header: &'static str, name: &'static str },
    #[allow(missing_docs)]
    #[error("websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header")]
    Version,
    #[allow(missing_docs)]
    #[error("websocket: 'Sec-WebSocket-Key' header is missing or not valid")]
    Key,
    /// The server in front of us can't upgrade connections.
    #[error("websocket: this connection can't be upgraded")]
    Connection,
}

impl Upgrade {
    /// Checks a request. Nothing is sent yet, so a failure can still be answered as one.
    pub fn from_request<B>(request: &mut Request<B>) -> Result<Self, NotAWebsocket> {
        if request.method() != Method::GET {
            return Err(NotAWebsocket::Method);
        }
        let headers = request.headers();
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(NotAWebsocket::Token { header: "upgrade", name: "Connection" });
        }
        if !has_token(headers, &UPGRADE, "websocket") {
            return Err(NotAWebsocket::Token { header: "websocket", name: "Upgrade" });
        }
        if !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") {
            return Err(NotAWebsocket::Version);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(NotAWebsocket::Key)?;
        let accept =
            HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| NotAWebsocket::Key)?;
        // Browsers put a bearer token next to our protocol; it is not ours to echo. Clients that
        // name no protocol, or only others, are served all the same.
        let plain = has_token(headers, &SEC_WEBSOCKET_PROTOCOL, PLAIN);
        let connection = request.extensions_mut().remove::<OnUpgrade>().ok_or(NotAWebsocket::Connection)?;
        Ok(Self { accept, plain, connection })
    }

    /// The answer that makes the connection a websocket. Add headers as you like.
    pub fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if self.plain {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PLAIN));
        }
        response
    }

    /// The websocket, once the response has been sent. Await it in a task of its own.
    pub async fn websocket(self) -> Result<WebSocket, hyper::Error> {
        let stream = TokioIo::new(self.connection.await?);
        Ok(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
    }
}

/// Whether one of the comma-separated tokens of a header's values is `token`.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| entry.trim().eq_ignore_ascii_case(token))
}
