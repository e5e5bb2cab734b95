//! A world in memory for virt-api: an API server that only tells, virt-handlers that can be
//! killed, and a guest that talks.

pub mod api_server;
pub mod certificates;
pub mod guest;
pub mod handler;
pub mod screen;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kubevirt_runtime::health::Health;
use kubevirt_runtime::serve::{Drain, Server};
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_runtime::tls::{ClientAuth, ClientTls, Peers, ServerTls};
use kubevirt_stream::websocket::{self, DialError, WebSocket};
use kubevirt_types::Release;
use kubevirt_types::labels::{CN_HANDLER_CLIENT, CN_HANDLER_SERVER};
use virt_api::app::App;
use virt_api::cluster::Cluster;
use virt_api::handler::Handlers;
use virt_api::server::router;
use virt_api::watch::{Readiness, View};

use api_server::ApiServer;
use certificates::Authority;

pub const FRONT_PROXY: &str = "front-proxy-client";
const VIRT_API: &str = "virt-api.kubevirt.pod.cluster.local";

/// A running virt-api and who may call it.
pub struct World {
    pub own_ca: Arc<Authority>,
    pub address: SocketAddr,
    front_proxy: ClientTls,
    nobody: ClientTls,
    pub shutdown: Shutdown,
}

/// Addresses of the two virt-handlers, the older first. They listen on one port, as pods do.
pub const HANDLERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))];

impl World {
    /// Starts virt-api of a release.
    pub async fn start(own: Release, console_port: u16) -> Self {
        let own_ca = Arc::new(Authority::new("kubevirt-ca"));
        let front_ca = Authority::new("front-proxy-ca");
        let api = ApiServer::start(&front_ca.pem(), HANDLERS).await;
        let shutdown = Shutdown::new();
        let health = Health::new(&shutdown);

        let server_tls = ServerTls::new(ClientAuth::IfGiven(Peers::default()));
        let (cert, key) = own_ca.issue(VIRT_API);
        server_tls.set_identity(&cert, &key).unwrap();
        let (view_ready, proxy_known) = (health.condition("view"), health.condition("proxy"));
        let ready = Readiness { view: view_ready, front_proxy: proxy_known };
        let view = View::start(&api.client(), "kubevirt", server_tls.clone(), ready);
        let handler_tls = own_ca.client(CN_HANDLER_CLIENT, CN_HANDLER_SERVER, &own_ca);
        let app = Arc::new(App {
            own,
            namespace: "kubevirt".into(),
            cluster: Cluster::new(api.client()),
            view,
            handlers: Handlers::new(handler_tls, console_port),
        });
        let server = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), server_tls).await.unwrap();
        let server = server.with_drain(Drain { linger: Duration::ZERO, streams: Duration::from_secs(5) });
        let address = server.local_addr().unwrap();
        let (until, routes) = (shutdown.clone(), router(app, health.router()));
        tokio::spawn(async move { server.serve(routes, &until).await });
        while !health.not_ready().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let front_proxy = front_ca.client(FRONT_PROXY, VIRT_API, &own_ca);
        let nobody = front_ca.client("somebody-else", VIRT_API, &own_ca);
        Self { own_ca, address, front_proxy, nobody, shutdown }
    }

    /// Opens a websocket as the front proxy does for `user`.
    pub async fn dial(&self, user: &str, path: &str) -> Result<(WebSocket, HeaderMap), DialError> {
        let stream = self.front_proxy.connect(self.address).await.unwrap();
        let request = Request::get(path)
            .header("X-Remote-User", user)
            .header("X-Remote-Group", "system:authenticated")
            .body(())
            .unwrap();
        websocket::dial(stream, request).await
    }

    /// Asks as the front proxy does for `user`.
    pub async fn ask(
        &self,
        user: &str,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let stream = self.front_proxy.connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "virt-api")
            .header("X-Remote-User", user)
            .header("X-Remote-Group", "system:authenticated")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes())
    }

    /// Whether somebody whom the front proxy's CA knows by another name gets in.
    pub async fn lets_nobody_in(&self) -> bool {
        let Ok(stream) = self.nobody.connect(self.address).await else { return true };
        let request = Request::get("/healthz").body(()).unwrap();
        websocket::dial(stream, request).await.is_err_and(|error| matches!(error, DialError::Http(_)))
    }
}
