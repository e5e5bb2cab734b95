//! The console server: streams to a guest's console and screen, pictures of it, and pausing it, for virt-api.
//!
//! Who may call is settled by TLS. A stream needs no lock and leaves no state here: the launcher
//! is asked first, and only if it agrees the connection becomes a websocket. The answer's header
//! [`OFFSET_HEADER`] tells where in the guest's output the stream begins, so that a caller can
//! resume it through another handler. It is had where the guest is: while that moves from one node
//! to another it is to be had nowhere, and a stream that ends because of it says "come again".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Extension, Json, Router};
use http::{HeaderValue, StatusCode, header};
use kubevirt_runtime::serve::StreamTracker;
use kubevirt_stream::attach::{AttachError, AttachRequest, Attached, OFFSET_HEADER, RECEIVED_HEADER, attach};
use kubevirt_stream::relay::{Close, relay_with};
use kubevirt_stream::websocket::{NotAWebsocket, Upgrade};
use kubevirt_types::Release;
use kubevirt_types::feature::{What, exists};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixStream;

use crate::launcher::calls::{self, CallError};
use crate::launcher::link::Links;
use crate::launcher::socket::{self, SocketError};
use crate::metrics::STREAMS;
use crate::vmi::knowledge::Knowledge;

/// A launcher answers an attach from memory.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);

/// Finds the uid of the launcher pod of a VMI whose guest is on this node.
pub type Lookup = Arc<dyn Fn(&str, &str) -> Option<String> + Send + Sync>;

/// What the server needs.
#[derive(Clone)]
pub struct Consoles {
    /// The launcher pods of the VMIs of this node.
    pub lookup: Lookup,
    /// Those launchers.
    pub links: Links,
    /// This node.
    pub node: String,
}

/// What a stream's caller may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Attach {
    session: Option<String>,
    resume_from: Option<u64>,
    preserve_session: bool,
}

/// What a picture's caller may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Look {
    move_cursor: bool,
}

/// Why a request came to nothing, as its caller is told.
#[derive(Debug, thiserror::Error)]
enum ConsoleError {
    #[error("virtualmachineinstances.kubevirt.io \"{name}\" not found on node {node}")]
    NotHere { name: String, node: String },
    #[error("virtualmachineinstances.kubevirt.io \"{name}\" moves away from node {node}")]
    Moving { name: String, node: String },
    #[error(transparent)]
    NotAWebsocket(#[from] NotAWebsocket),
    #[error("{0}")]
    Query(String),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("can't connect to the launcher: {0}")]
    Connect(std::io::Error),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("the launcher did not answer in {} s", ATTACH_LIMIT.as_secs())]
    Slow,
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The routes that a release has.
pub fn router(consoles: Consoles, release: &Release) -> Router {
    let at = |what: &str| format!("/v1/namespaces/{{namespace}}/virtualmachineinstances/{{name}}/{what}");
    let mut routes = Router::new()
        .route(&at("console"), get(stream_console))
        .route(&at("vnc"), get(stream_vnc))
        .route(&at("vnc/screenshot"), get(screenshot));
    for (action, route) in
        [("pause", put(pause)), ("unpause", put(unpause)), ("softreboot", put(soft_reboot))]
    {
        if exists(What::Subresource("virtualmachineinstances", action), release) {
            routes = routes.route(&at(action), route);
        }
    }
    routes.with_state(consoles)
}

type Name = Path<(String, String)>;
type Asked = Result<Query<Attach>, QueryRejection>;

async fn stream_console(
    State(consoles): State<Consoles>,
    Path(name): Name,
    asked: Asked,
    Extension(streams): Extension<StreamTracker>,
    request: Request,
) -> Result<Response, ConsoleError> {
    consoles.stream(name, socket::CONSOLE, asked, streams, request).await
}

async fn stream_vnc(
    State(consoles): State<Consoles>,
    Path(name): Name,
    asked: Asked,
    Extension(streams): Extension<StreamTracker>,
    request: Request,
) -> Result<Response, ConsoleError> {
    consoles.stream(name, socket::VNC, asked, streams, request).await
}

async fn screenshot(
    State(consoles): State<Consoles>,
    Path(name): Name,
    asked: Result<Query<Look>, QueryRejection>,
) -> Result<Response, ConsoleError> {
    let asked = asked.map_err(|rejection| ConsoleError::Query(rejection.body_text()))?.0;
    let pod = consoles.pod_of(&name)?;
    let picture = match calls::screenshot(&consoles.links, &pod, asked.move_cursor).await {
        Ok(picture) => picture,
        Err(CallError::Refused { .. }) if consoles.has_moved(&pod).await => {
            return Err(consoles.moving(&name));
        }
        Err(error) => return Err(error.into()),
    };
    let (namespace, name) = name;
    tracing::info!(namespace, name, bytes = picture.len(), "screenshot taken");
    Ok(([(header::CONTENT_TYPE, "image/png")], picture).into_response())
}

async fn pause(State(consoles): State<Consoles>, Path(name): Name) -> Result<StatusCode, ConsoleError> {
    calls::pause(&consoles.links, &consoles.pod_of(&name)?).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn unpause(State(consoles): State<Consoles>, Path(name): Name) -> Result<StatusCode, ConsoleError> {
    calls::unpause(&consoles.links, &consoles.pod_of(&name)?).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn soft_reboot(State(consoles): State<Consoles>, Path(name): Name) -> Result<StatusCode, ConsoleError> {
    calls::soft_reboot(&consoles.links, &consoles.pod_of(&name)?).await?;
    Ok(StatusCode::ACCEPTED)
}

impl Consoles {
    fn pod_of(&self, name: &(String, String)) -> Result<String, ConsoleError> {
        let pod = (self.lookup)(&name.0, &name.1);
        let pod =
            pod.ok_or_else(|| ConsoleError::NotHere { name: name.1.clone(), node: self.node.clone() })?;
        if self.is_given_away(&pod) { Err(self.moving(name)) } else { Ok(pod) }
    }

    fn moving(&self, (_, name): &(String, String)) -> ConsoleError {
        ConsoleError::Moving { name: name.clone(), node: self.node.clone() }
    }

    fn is_given_away(&self, pod: &str) -> bool {
        matches!(self.links.knowledge(pod), Knowledge::Known(domain) if domain.is_given_away())
    }

    /// Whether a launcher has no stream any more because its guest moves.
    async fn has_moved(&self, pod: &str) -> bool {
        self.look(pod).await;
        self.is_given_away(pod)
    }

    /// Asks a launcher how its guest is: what it said may be behind its streams. False if it doesn't answer.
    async fn look(&self, pod: &str) -> bool {
        let looked = calls::look(&self.links, pod).await;
        if let Err(error) = &looked {
            tracing::debug!(pod, %error, "a launcher without a stream");
        }
        looked.is_ok()
    }

    /// What the end of a launcher's stream means, behind the byte at `position`.
    async fn farewell(&self, pod: &str, socket: &str, position: u64) -> Close {
        let answers = self.look(pod).await;
        if self.is_given_away(pod) {
            Close::moved()
        } else if !answers {
            // Its guest may have ended, or moved. virt-api comes again, and finds in the API what is true.
            Close { code: 1001, reason: "the launcher does not answer".into() }
        } else if socket == socket::CONSOLE && self.was_too_slow(pod, position).await {
            Close::too_slow()
        } else {
            Close::normal()
        }
    }

    /// Whether a console's stream ended because its reader was too slow. The launcher just cuts it; whoever comes to an empty
    /// seat sees by the offset what is lost.
    async fn was_too_slow(&self, pod: &str, position: u64) -> bool {
        let request = AttachRequest {
            // Nobody's: the same session may sit there again.
            session: own_session(),
            resume_from: Some(position),
            preserve_session: true,
        };
        self.attach(pod, socket::CONSOLE, &request)
            .await
            .is_ok_and(|(_, attached)| attached.offset > position)
    }

    /// A launcher's stream, and where it begins.
    async fn attach(
        &self,
        pod: &str,
        socket: &str,
        request: &AttachRequest,
    ) -> Result<(UnixStream, Attached), ConsoleError> {
        let found = socket::find(self.links.pods(), pod, socket)?;
        let mut guest = UnixStream::connect(found.path()).await.map_err(ConsoleError::Connect)?;
        let attached = tokio::time::timeout(ATTACH_LIMIT, attach(&mut guest, request)).await;
        let attached = attached.map_err(|_| ConsoleError::Slow)??;
        Ok((guest, attached))
    }

    async fn stream(
        &self,
        name: (String, String),
        socket: &'static str,
        asked: Asked,
        streams: StreamTracker,
        mut request: Request,
    ) -> Result<Response, ConsoleError> {
        let asked = asked.map_err(|rejection| ConsoleError::Query(rejection.body_text()))?.0;
        let pod = self.pod_of(&name)?;
        let upgrade = Upgrade::from_request(&mut request)?;
        let session = asked.session.clone().unwrap_or_else(own_session);
        let request = AttachRequest {
            session: session.clone(),
            resume_from: asked.resume_from,
            preserve_session: asked.preserve_session,
        };
        let (guest, Attached { offset, received }) = match self.attach(&pod, socket, &request).await {
            Ok(attached) => attached,
            Err(_) if self.has_moved(&pod).await => return Err(self.moving(&name)),
            Err(error) => return Err(error),
        };
        let mut response: Response = upgrade.response();
        response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(offset));
        if let Some(received) = received {
            response.headers_mut().insert(RECEIVED_HEADER, HeaderValue::from(received));
        }
        let stop = streams.stop().clone();
        let consoles = self.clone();
        streams.spawn(async move {
            let _open = Open::new();
            let (namespace, name) = name;
            tracing::info!(namespace, name, socket, session, offset, "stream begins");
            match upgrade.websocket().await {
                Ok(websocket) => {
                    let farewell = async |said| consoles.farewell(&pod, socket, offset + said).await;
                    let end = relay_with(websocket, guest, &stop, farewell).await;
                    tracing::info!(namespace, name, socket, session, ?end, "stream ends");
                }
                Err(error) => tracing::info!(namespace, name, socket, session, %error, "stream not begun"),
            }
        });
        Ok(response)
    }
}

/// A session of a caller that names none.
fn own_session() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("virt-handler-{}-{count}", jiff::Timestamp::now().as_nanosecond())
}

/// Counts a stream as long as it lives.
struct Open;

impl Open {
    fn new() -> Self {
        STREAMS.inc();
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        STREAMS.dec();
    }
}

impl ConsoleError {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            // What virt-api asks again for, elsewhere.
            Self::NotHere { .. } | Self::Moving { .. } => (StatusCode::NOT_FOUND, "NotFound"),
            Self::NotAWebsocket(_) | Self::Query(_) | Self::Call(CallError::Unsupported { .. }) => {
                (StatusCode::BAD_REQUEST, "BadRequest")
            }
            Self::Call(CallError::Refused { lasting: true, .. }) => (StatusCode::CONFLICT, "Conflict"),
            Self::Socket(_) | Self::Connect(_) | Self::Attach(_) | Self::Call(CallError::Unreachable) => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Self::Slow | Self::Call(CallError::Slow { .. }) => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            Self::Call(CallError::Refused { .. } | CallError::Encode(_)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
        }
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let (code, reason) = self.status();
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code.as_u16(),
        });
        (code, Json(status)).into_response()
    }
}
