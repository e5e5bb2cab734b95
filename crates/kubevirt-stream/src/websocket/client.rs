//! The client's side of the handshake.

use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{PLAIN, WebSocket, config};

/// A refusal is a sentence or a Status; what is longer is not for us.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// A handshake that a client has begun.
#[derive(Debug)]
pub struct Handshake {
    key: String,
}

/// There is no websocket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The connection failed.
    #[error("the websocket handshake was cut")]
    Http(#[from] hyper::Error),
    /// The server answered something else, such as a Status.
    #[error("the server answered {status}: {}", String::from_utf8_lossy(body))]
    Refused {
        #[allow(missing_docs)]
        status: StatusCode,
        #[allow(missing_docs)]
        content_type: Option<String>,
        /// Its beginning.
        body: Vec<u8>,
    },
    /// The server answered 101 without having understood.
    #[error("the server switched protocols without a valid Sec-WebSocket-Accept header")]
    BadAccept,
}

impl Default for Handshake {
    fn default() -> Self {
        Self { key: generate_key() }
    }
}

impl Handshake {
    /// Adds to a GET request's headers what asks for a websocket.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        let key = HeaderValue::from_str(&self.key).expect("a base64 key is a valid header");
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, key);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PLAIN));
    }

    /// Makes the websocket from a response that hyper can upgrade, such as one of `kube::Client::send`.
    pub async fn finish<B>(self, response: Response<B>) -> Result<WebSocket, DialError>
    where
        B: hyper::body::Body,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accept != Some(derive_accept_key(self.key.as_bytes()).as_bytes()) {
            return Err(DialError::BadAccept);
        }
        let stream = TokioIo::new(hyper::upgrade::on(response).await?);
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config())).await)
    }
}

/// Asks for a websocket over a connected stream. `request` carries path and headers; those of the handshake
/// are added. Also returns the response's headers.
pub async fn dial<S>(stream: S, mut request: Request<()>) -> Result<(WebSocket, HeaderMap), DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = Handshake::default();
    handshake.add_to(request.headers_mut());
    if !request.headers().contains_key(HOST) {
        let host = request.uri().authority().map_or("localhost", |authority| authority.as_str());
        let host = HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost"));
        request.headers_mut().insert(HOST, host);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request.map(|()| Empty::<&[u8]>::new())).await?;
    let headers = response.headers().clone();
    Ok((handshake.finish(response).await?, headers))
}

async fn refusal<B>(response: Response<B>) -> DialError
where
    B: hyper::body::Body,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let content_type =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = std::pin::pin!(Limited::new(response.into_body(), REFUSAL_LIMIT));
    // What can't be read of a refusal is missing from the message; the status is there.
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    DialError::Refused { status, content_type, body }
}
