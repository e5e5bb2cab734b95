//! Calls to virt-handler's console server: mutual TLS, the best virt-handler of a node first.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kubevirt_runtime::tls::{ClientTls, TlsError};
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::websocket::{self, DialError, WebSocket};
use serde_json::Value;

use crate::handler_pod::HandlerPod;
use crate::instance::{Action, Stream};

/// virt-handler asks the launcher before it answers, and gives it five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Two on a node while one is replaced, and one that is just going.
const CANDIDATES: usize = 3;
/// A refusal is a Status; what is longer is not for us.
const REFUSAL_LIMIT: usize = 64 * 1024;
/// A picture of the largest screen there is, also from virt-handlers of releases that packed it themselves.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// virt-handlers, as somebody who may call them sees them.
#[derive(Clone)]
pub struct Handlers {
    tls: ClientTls,
    port: u16,
}

/// An instance's stream as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    #[allow(missing_docs)]
    pub stream: Stream,
    #[allow(missing_docs)]
    pub namespace: String,
    #[allow(missing_docs)]
    pub name: String,
    /// Who attaches; the same again is the same session coming back.
    pub session: String,
    /// Offset of the first byte that is wanted; none for what comes from now on.
    pub resume_from: Option<u64>,
    /// Don't take the place of a session that there is.
    pub preserve_session: bool,
    /// The client has named its session, so it may come back with it.
    pub comes_back: bool,
    /// The client of a screen counts what it sends, and goes on by itself where its server is lost.
    pub counts: bool,
}

/// A stream that virt-handler has opened.
pub struct Opened {
    #[allow(missing_docs)]
    pub websocket: WebSocket,
    /// Offset of its first byte, where virt-handler tells.
    pub offset: Option<u64>,
    /// How many bytes of the session the launcher had taken before, where virt-handler tells.
    pub received: Option<u64>,
    /// The virt-handler's name.
    pub handler: String,
}

/// No virt-handler did it.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// There is none.
    #[error("no virt-handler on node {node}")]
    None {
        #[allow(missing_docs)]
        node: String,
    },
    /// It can't be reached.
    #[error("virt-handler {handler} can't be reached: {source}")]
    Connect {
        #[allow(missing_docs)]
        handler: String,
        #[allow(missing_docs)]
        source: TlsError,
    },
    /// The connection broke before it answered.
    #[error("virt-handler {handler} gave no answer: {why}")]
    Cut {
        #[allow(missing_docs)]
        handler: String,
        #[allow(missing_docs)]
        why: String,
    },
    /// It says no.
    #[error("virt-handler {handler}: {message}")]
    Refused {
        #[allow(missing_docs)]
        handler: String,
        #[allow(missing_docs)]
        status: StatusCode,
        #[allow(missing_docs)]
        message: String,
    },
}

impl HandlerError {
    /// Whether it may pass by itself, or another virt-handler of the node may do it: there is none
    /// just now, it can't be reached, or it doesn't know the instance yet.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::None { .. } | Self::Connect { .. } | Self::Cut { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::NOT_FOUND,
        }
    }

    /// Whether a virt-handler knows the instance but not its launcher, as one that has just started.
    pub fn is_unready(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
                    && !self.is_taken()
            }
            Self::None { .. } | Self::Connect { .. } | Self::Cut { .. } => false,
        }
    }

    /// Whether somebody else has the stream, and keeps it: launchers of every release say it in these words.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.ends_with("connection. Request denied."))
    }
}

impl Handlers {
    /// With our client certificate.
    pub fn new(tls: ClientTls, port: u16) -> Self {
        Self { tls, port }
    }

    /// Opens a stream through the first of `pods` that does it.
    pub async fn open(
        &self,
        node: &str,
        pods: &[HandlerPod],
        request: &StreamRequest,
    ) -> Result<Opened, HandlerError> {
        let mut last = HandlerError::None { node: node.to_owned() };
        for pod in pods.iter().take(CANDIDATES) {
            match self.open_at(pod, request).await {
                Ok(opened) => return Ok(opened),
                Err(error) if error.may_pass() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn open_at(&self, pod: &HandlerPod, request: &StreamRequest) -> Result<Opened, HandlerError> {
        let handler = pod.name.clone();
        let stream = self.connect(pod).await?;
        let wanted = self.request(pod, Method::GET, &request.path())?;
        let dialed = tokio::time::timeout(ANSWER_LIMIT, websocket::dial(stream, wanted)).await;
        match dialed {
            Ok(Ok((websocket, headers))) => {
                let (offset, received) = (number(&headers, OFFSET_HEADER), number(&headers, RECEIVED_HEADER));
                Ok(Opened { websocket, offset, received, handler })
            }
            Ok(Err(DialError::Refused { status, body, .. })) => {
                Err(HandlerError::Refused { handler, status, message: message(&body) })
            }
            Ok(Err(error @ (DialError::Http(_) | DialError::BadAccept))) => {
                Err(HandlerError::Cut { handler, why: error.to_string() })
            }
            Err(_) => Err(slow(handler)),
        }
    }

    /// Has something done to an instance by the first of `pods` that does it.
    pub async fn act(
        &self,
        node: &str,
        pods: &[HandlerPod],
        (namespace, name): (&str, &str),
        action: Action,
    ) -> Result<(), HandlerError> {
        let path = format!("{}/{}", instance_path(namespace, name), action.name());
        self.first(node, pods, Method::PUT, &path).await.map(drop)
    }

    /// Takes a picture of an instance's screen, through the first of `pods` that does it.
    pub async fn screenshot(
        &self,
        node: &str,
        pods: &[HandlerPod],
        (namespace, name): (&str, &str),
        move_cursor: bool,
    ) -> Result<Bytes, HandlerError> {
        let instance = instance_path(namespace, name);
        let path = format!("{instance}/vnc/screenshot?moveCursor={move_cursor}");
        self.first(node, pods, Method::GET, &path).await
    }

    async fn first(
        &self,
        node: &str,
        pods: &[HandlerPod],
        method: Method,
        path: &str,
    ) -> Result<Bytes, HandlerError> {
        let mut last = HandlerError::None { node: node.to_owned() };
        for pod in pods.iter().take(CANDIDATES) {
            let call = self.call(pod, method.clone(), path);
            let done = tokio::time::timeout(ANSWER_LIMIT, call).await;
            match done.unwrap_or_else(|_| Err(slow(pod.name.clone()))) {
                Ok(answer) => return Ok(answer),
                Err(error) if error.may_pass() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn call(&self, pod: &HandlerPod, method: Method, path: &str) -> Result<Bytes, HandlerError> {
        let cut = |why: String| HandlerError::Cut { handler: pod.name.clone(), why };
        let stream = self.connect(pod).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| cut(error.to_string()))?;
        tokio::spawn(connection);
        let request = self.request(pod, method, path)?.map(|()| Empty::<&[u8]>::new());
        let response = sender.send_request(request).await.map_err(|error| cut(error.to_string()))?;
        let status = response.status();
        if status.is_success() {
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            return body.map(|body| body.to_bytes()).map_err(|error| cut(error.to_string()));
        }
        let body = Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
        // What can't be read of a refusal is missing from the message; the status is there.
        let body = body.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        Err(HandlerError::Refused { handler: pod.name.clone(), status, message: message(&body) })
    }

    async fn connect(
        &self,
        pod: &HandlerPod,
    ) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static, HandlerError>
    {
        let connected = self.tls.connect(SocketAddr::new(pod.ip, self.port)).await;
        connected.map_err(|source| HandlerError::Connect { handler: pod.name.clone(), source })
    }

    fn request(&self, pod: &HandlerPod, method: Method, path: &str) -> Result<Request<()>, HandlerError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, SocketAddr::new(pod.ip, self.port).to_string())
            .body(())
            .map_err(|error| HandlerError::Cut { handler: pod.name.clone(), why: error.to_string() })
    }
}

impl StreamRequest {
    /// Whether the client had this stream before: it names its session, and says where it was or that it would rather not take
    /// anybody's place. A stock client does neither or only the latter.
    pub fn is_again(&self) -> bool {
        self.comes_back && (self.resume_from.is_some() || self.preserve_session)
    }

    /// Path and query at virt-handler.
    fn path(&self) -> String {
        let mut path = format!(
            "{}/{}?session={}&preserveSession={}",
            instance_path(&self.namespace, &self.name),
            self.stream.name(),
            self.session,
            self.preserve_session
        );
        if let Some(offset) = self.resume_from {
            path.push_str(&format!("&resumeFrom={offset}"));
        }
        path
    }
}

fn instance_path(namespace: &str, name: &str) -> String {
    format!("/v1/namespaces/{namespace}/virtualmachineinstances/{name}")
}

fn slow(handler: String) -> HandlerError {
    HandlerError::Cut { handler, why: format!("nothing in {} s", ANSWER_LIMIT.as_secs()) }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The message of a Status, or the text itself.
fn message(body: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(body).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str());
    message.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_with_its_session_and_offset() {
        let mut request = StreamRequest {
            stream: Stream::Console,
            namespace: "ns".into(),
            name: "a".into(),
            session: "s1".into(),
            resume_from: None,
            preserve_session: false,
            comes_back: false,
            counts: false,
        };
        let base = "/v1/namespaces/ns/virtualmachineinstances/a/console?session=s1&preserveSession=false";
        assert_eq!(request.path(), base);
        request.resume_from = Some(7);
        assert_eq!(request.path(), format!("{base}&resumeFrom=7"));
        assert!(!request.is_again(), "it is virt-api itself that resumes it");
        request.comes_back = true;
        assert!(request.is_again());
        request.resume_from = None;
        assert!(!request.is_again());
    }

    #[test]
    fn a_refusals_words_are_those_of_its_status() {
        assert_eq!(message(br#"{"kind":"Status","message":"no"}"#), "no");
        assert_eq!(message(b" plain \n"), "plain");
    }

    #[test]
    fn only_who_is_unreachable_or_ignorant_is_passed_over() {
        let refused = |status| HandlerError::Refused { handler: "h".into(), status, message: String::new() };
        assert!(refused(StatusCode::NOT_FOUND).may_pass());
        assert!(!refused(StatusCode::SERVICE_UNAVAILABLE).may_pass());
        assert!(slow("h".into()).may_pass());
    }
}
