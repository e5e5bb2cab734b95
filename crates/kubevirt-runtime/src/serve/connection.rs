//! One connection: TLS handshake, then HTTP/1.1 requests until it is closed or upgraded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{PeerAddress, StreamTracker};
use crate::tls::{PeerCertificate, peer_certificate};

/// Who connects and says nothing must not hold a socket.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Longer than the 90 s after which Go's clients close an idle connection, so that it is the client who does.
const IDLE_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) streams: StreamTracker,
    /// The process was told to stop: answers say so, so that clients go elsewhere.
    pub(super) stopping: CancellationToken,
    /// The listener is closed: idle connections end.
    pub(super) closed: CancellationToken,
    pub(super) peer: Option<SocketAddr>,
}

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream, config: Option<Arc<ServerConfig>>) {
        let Some(config) = config else {
            tracing::debug!(peer = ?self.peer, "no certificate yet, closing");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(peer = ?self.peer, %error, "nodelay");
        }
        let stream = match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                // Who hangs up is nothing new; who trusts us not, or isn't trusted, is what an administrator looks for.
                return if error.get_ref().is_some_and(|error| error.is::<rustls::Error>()) {
                    tracing::warn!(peer = ?self.peer, %error, "TLS handshake failed");
                } else {
                    tracing::debug!(peer = ?self.peer, %error, "no TLS handshake");
                };
            }
            Err(_) => return tracing::debug!(peer = ?self.peer, "TLS handshake took too long"),
        };
        let certificate =
            stream.get_ref().1.peer_certificates().and_then(|chain| peer_certificate(chain.first()?));
        let closed = self.closed.clone();
        let peer = self.peer;
        let service = service_fn(move |request| self.clone().answer(request, certificate.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = closed.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(?peer, %error, "connection");
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        certificate: Option<PeerCertificate>,
    ) -> Result<Response, Infallible> {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(self.streams.clone());
        if let Some(certificate) = certificate {
            extensions.insert(certificate);
        }
        if let Some(peer) = self.peer {
            extensions.insert(PeerAddress(peer));
        }
        let mut response = self.router.oneshot(request).await?;
        if self.stopping.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}
