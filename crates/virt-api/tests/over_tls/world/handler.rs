//! A virt-handler that can be killed: it runs in a runtime of its own, which goes without a word.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Query, RawQuery, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::HeaderValue;
use kubevirt_runtime::serve::{Server, StreamTracker};
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_runtime::tls::{ClientAuth, Peers, ServerTls};
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::relay::relay;
use kubevirt_stream::websocket::Upgrade;
use kubevirt_types::labels::{CN_HANDLER_CLIENT, CN_HANDLER_SERVER};
use serde::Deserialize;

use super::certificates::Authority;
use super::guest::Guest;
use super::screen::vnc;

pub struct Handler {
    runtime: tokio::runtime::Runtime,
    pub port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    session: String,
    resume_from: Option<u64>,
    preserve_session: bool,
}

impl Handler {
    /// Starts one at this address; port 0 takes any.
    pub async fn start(ip: IpAddr, port: u16, ca: &Authority, guest: Guest) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let peers = Peers { ca_pem: ca.pem().into_bytes(), common_names: vec![CN_HANDLER_CLIENT.into()] };
        let tls = ServerTls::new(ClientAuth::Required(peers));
        let (cert, key) = ca.issue(CN_HANDLER_SERVER);
        tls.set_identity(&cert, &key).unwrap();
        let bound = runtime.spawn(Server::bind(SocketAddr::new(ip, port), tls)).await.unwrap().unwrap();
        let port = bound.local_addr().unwrap().port();
        let at = |what: &str| format!("/v1/namespaces/ns/virtualmachineinstances/a/{what}");
        let router = Router::new()
            .route(&at("console"), get(console))
            .route(&at("vnc"), get(vnc))
            .route(&at("vnc/screenshot"), get(screenshot))
            .with_state(guest);
        runtime.spawn(async move { bound.serve(router, &Shutdown::new()).await });
        Self { runtime, port }
    }

    /// Ends it at once; its connections just break.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// A picture that tells what it was asked for; a guest that is off has none.
async fn screenshot(State(guest): State<Guest>, RawQuery(asked): RawQuery) -> Response {
    match guest.is_off() {
        false => Response::new(format!("PNG {}", asked.unwrap_or_default()).into()),
        true => {
            let status = r#"{"kind":"Status","message":"can't connect to the launcher"}"#;
            Response::builder().status(503).body(status.into()).unwrap()
        }
    }
}

async fn console(
    State(guest): State<Guest>,
    Query(asked): Query<Asked>,
    Extension(streams): Extension<StreamTracker>,
    mut request: Request,
) -> Response {
    assert!(!asked.session.is_empty());
    if asked.preserve_session && guest.is_taken(&asked.session).await {
        let status = r#"{"kind":"Status","message":"Active console connection. Request denied."}"#;
        return Response::builder().status(503).body(status.into()).unwrap();
    }
    let upgrade = Upgrade::from_request(&mut request).unwrap();
    let mut response: Response = upgrade.response();
    let attached = guest.attach(&asked.session, asked.resume_from).await;
    response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(attached.offset));
    response.headers_mut().insert(RECEIVED_HEADER, HeaderValue::from(attached.received));
    let stop = streams.stop().clone();
    streams.spawn(async move {
        let websocket = upgrade.websocket().await.unwrap();
        let launcher = tokio::net::UnixStream::from_std(attached.stream).unwrap();
        relay(websocket, launcher, &stop).await;
    });
    response
}
