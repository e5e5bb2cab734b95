//! Connections between two launchers: dialling, being dialled, carrying QEMU's stream.
//!
//! Every connection is TLS with both sides' certificates of this migration, and begins with
//! the source's `Hello`. Never looks into QEMU's stream.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::channel::{self, Message};

/// A peer on the same network, on a node on its knees.
const MEET_TIMEOUT: Duration = Duration::from_secs(10);
/// What is copied at once.
const CHUNK: usize = 256 * 1024;

/// A connection that doesn't come about.
#[derive(Debug, Error)]
pub enum TransportError {
    /// Nobody there, or the wrong one.
    #[error("connecting to the target at {to}: {source}")]
    Dial {
        /// Where.
        to: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The target says no.
    #[error("the target refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The target says something else.
    #[error("the target says {0:?} where an answer was expected")]
    Strange(Box<Message>),
    /// No port.
    #[error("listening for the source: {0}")]
    Listen(io::Error),
}

/// Reaches the target and greets it; gives its answer.
pub async fn dial(
    config: ClientConfig,
    to: SocketAddr,
    hello: &Message,
) -> Result<(client::TlsStream<TcpStream>, Message), TransportError> {
    let meet = async {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(to.ip().into());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        channel::write(&mut stream, hello).await?;
        let answer = channel::read(&mut stream).await?;
        Ok((stream, answer))
    };
    let met = tokio::time::timeout(MEET_TIMEOUT, meet).await;
    met.unwrap_or_else(|late| Err(late.into())).map_err(|source| TransportError::Dial { to, source })
}

/// As [`dial`], when only a welcome will do.
pub async fn dial_welcome(
    config: ClientConfig,
    to: SocketAddr,
    hello: &Message,
) -> Result<client::TlsStream<TcpStream>, TransportError> {
    match dial(config, to, hello).await? {
        (stream, Message::Welcome) => Ok(stream),
        (_, Message::Refused { reason } | Message::Never { reason }) => {
            Err(TransportError::Refused { reason })
        }
        (_, other) => Err(TransportError::Strange(Box::new(other))),
    }
}

/// Listens on any free port of every address.
pub async fn listen() -> Result<(TcpListener, u16), TransportError> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
        Ok(listener) => listener,
        // A node without IPv6.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(TransportError::Listen)?,
    };
    let port = listener.local_addr().map_err(TransportError::Listen)?.port();
    Ok((listener, port))
}

/// Takes a connection, if it is the source's, and its first message.
pub async fn meet(
    config: Arc<ServerConfig>,
    tcp: TcpStream,
) -> io::Result<(server::TlsStream<TcpStream>, Message)> {
    let meet = async {
        tcp.set_nodelay(true)?;
        let mut stream = TlsAcceptor::from(config).accept(tcp).await?;
        let hello = channel::read(&mut stream).await?;
        Ok((stream, hello))
    };
    tokio::time::timeout(MEET_TIMEOUT, meet).await?
}

/// Carries QEMU's stream until both sides have closed; an error if it was cut.
pub async fn relay<S>(mut network: S, mut qemu: UnixStream) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(&mut network, &mut qemu, CHUNK, CHUNK).await.map(|_| ())
}
