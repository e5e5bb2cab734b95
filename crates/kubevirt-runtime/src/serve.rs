//! The server: accepts, speaks TLS and HTTP/1.1, and drains without refusing or cutting anybody.
//!
//! What is served is the router's business; who may ask is the handlers', from
//! [`PeerCertificate`](crate::tls::PeerCertificate) in the request's extensions.

mod connection;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;
use crate::tls::ServerTls;
use connection::Connection;

/// Endpoints are told within a second or two that a pod isn't ready; kube-proxy and the API
/// server's aggregator need a few more to forget it. Eight is what they need on a loaded machine.
pub const LINGER: Duration = Duration::from_secs(8);
/// Requests that are no streams end by themselves; one that doesn't in this time is given up.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// After too many open files `accept` would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// For so long it goes on accepting after it was told to stop.
    pub linger: Duration,
    /// For so long after that it waits for streams.
    pub streams: Duration,
}

/// The hour that streams have where nobody says otherwise. The pod's grace is longer.
pub const DRAIN_SECONDS: u32 = 3600;

impl Drain {
    /// [`LINGER`], and so many seconds for streams.
    pub fn of_streams(seconds: u32) -> Self {
        Self { linger: LINGER, streams: Duration::from_secs(seconds.into()) }
    }
}

impl Default for Drain {
    /// [`LINGER`], and [`DRAIN_SECONDS`] for streams.
    fn default() -> Self {
        Self::of_streams(DRAIN_SECONDS)
    }
}

/// Keeps the process alive for upgraded connections. In the extensions of every request.
#[derive(Debug, Clone, Default)]
pub struct StreamTracker {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl StreamTracker {
    /// Runs a stream's task; the drain waits for it.
    pub fn spawn<F>(&self, stream: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(stream);
    }

    /// Cancelled when the drain's limit is over: say goodbye and end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Where a request comes from. In the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// A server can't listen.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    #[allow(missing_docs)]
    pub address: SocketAddr,
    #[allow(missing_docs)]
    pub source: std::io::Error,
}

/// One listening socket with its TLS.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: ServerTls,
    drain: Drain,
    streams: StreamTracker,
}

impl Server {
    /// Listens. Connections wait until [`Server::serve`].
    pub async fn bind(address: SocketAddr, tls: ServerTls) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
        Ok(Self { listener, tls, drain: Drain::default(), streams: StreamTracker::default() })
    }

    /// With another way to stop.
    pub fn with_drain(self, drain: Drain) -> Self {
        Self { drain, ..self }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The streams of this server.
    pub fn streams(&self) -> &StreamTracker {
        &self.streams
    }

    /// Serves until told to stop, and then as long as there is something in flight.
    pub async fn serve(self, router: Router, shutdown: &Shutdown) {
        let Self { listener, tls, drain, streams } = self;
        let connections = TaskTracker::new();
        // Told to connections when the listener is closed: finish what is in flight.
        let closed = CancellationToken::new();
        let mut connection = Connection {
            router,
            streams: streams.clone(),
            stopping: shutdown.token().clone(),
            closed: closed.clone(),
            peer: None,
        };
        let lingered = async {
            shutdown.wait().await;
            sleep(drain.linger).await;
        };
        let mut lingered = std::pin::pin!(lingered);
        loop {
            let accepted = tokio::select! {
                () = &mut lingered => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    connection.peer = Some(peer);
                    connections.spawn(connection.clone().serve(stream, tls.config()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        closed.cancel();
        connections.close();
        streams.tasks.close();
        let in_flight = connections.len();
        tracing::info!(connections = in_flight, streams = streams.len(), "listener closed, draining");
        if timeout(REQUEST_LIMIT, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "requests did not end, giving them up");
        }
        if timeout(drain.streams, streams.tasks.wait()).await.is_err() {
            tracing::warn!(streams = streams.len(), "streams did not end in time, ending them");
            streams.stop.cancel();
            if timeout(STREAM_GOODBYE, streams.tasks.wait()).await.is_err() {
                tracing::warn!(streams = streams.len(), "streams did not say goodbye");
            }
        }
    }
}

/// A stream that was told to end needs this long at most to say so to its peers.
const STREAM_GOODBYE: Duration = Duration::from_secs(5);
