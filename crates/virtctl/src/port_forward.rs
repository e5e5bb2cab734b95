//! `port-forward`: ports of this machine lead to ports of a guest, each connection through a websocket of its own.

mod udp;

use kubevirt_stream::relay::{RelayEnd, relay, relay_half_closing};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::PortForwardOptions;
use crate::cli::port::{ForwardedPort, PortTarget, Protocol};
use crate::cluster::{Cluster, chain};
use crate::stream::{OpenError, Opened, open_path};
use crate::terminal::say;

/// A close frame that says that all is well.
const NORMAL: u16 = 1000;

/// Ports that aren't forwarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortForwardError {
    #[error("only one port supported when forwarding to stdout")]
    OnePort,
    #[error("only TCP is supported when forwarding to stdout")]
    OnlyTcp,
    #[error("can't listen on {address}:{port}")]
    Listen { address: String, port: u16, source: std::io::Error },
    #[error("can't accept connections to port {port}")]
    Accept { port: u16, source: std::io::Error },
    #[error("Can't access {resource} {name}: {source}")]
    Open { resource: &'static str, name: String, source: OpenError },
    #[error("the tunnel to port {port} was cut: {cause}")]
    Cut { port: u16, cause: String },
}

pub(crate) async fn run(cluster: &Cluster, options: &PortForwardOptions) -> Result<(), PortForwardError> {
    let guest = Guest::of(cluster, &options.target);
    if options.stdio {
        return stdio(&guest, &options.ports).await;
    }
    // All are listened at before the first is said to be forwarded: a port in use is seen at once.
    let mut forwarders = Vec::new();
    for port in &options.ports {
        forwarders.push(Forwarder::listen(&options.address, *port).await?);
    }
    let mut running = JoinSet::new();
    for forwarder in forwarders {
        say(&format!("Forwarding from {} -> {}", forwarder.local, forwarder.port.target));
        running.spawn(forwarder.forward(guest.clone()));
    }
    match running.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        None => Ok(()),
    }
}

async fn stdio(guest: &Guest, ports: &[ForwardedPort]) -> Result<(), PortForwardError> {
    let [port] = ports else { return Err(PortForwardError::OnePort) };
    if port.protocol != Protocol::Tcp {
        return Err(PortForwardError::OnlyTcp);
    }
    let opened = guest.open(*port).await?;
    let stream = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    through(*port, opened, stream).await
}

/// Carries a local stream through an open tunnel. One that has said all still hears the answer, where the server knows how.
async fn through(
    port: ForwardedPort,
    opened: Opened,
    stream: impl AsyncRead + AsyncWrite,
) -> Result<(), PortForwardError> {
    let stop = CancellationToken::new();
    let end = match opened.half_closes {
        true => relay_half_closing(opened.websocket, stream, &stop).await,
        false => relay(opened.websocket, stream, &stop).await,
    };
    outcome(port, end)
}

/// Whom the ports lead to.
#[derive(Clone)]
struct Guest {
    cluster: Cluster,
    target: PortTarget,
}

impl Guest {
    fn of(cluster: &Cluster, target: &PortTarget) -> Self {
        let mut cluster = cluster.clone();
        if let Some(namespace) = &target.namespace {
            cluster.namespace.clone_from(namespace);
        }
        Self { cluster, target: target.clone() }
    }

    fn path(&self, port: ForwardedPort) -> String {
        let PortTarget { resource, name, .. } = &self.target;
        let subresource = format!("portforward/{}/{}", port.target, port.protocol.name());
        self.cluster.path(resource, name, &subresource)
    }

    async fn open(&self, port: ForwardedPort) -> Result<Opened, PortForwardError> {
        let opened = open_path(&self.cluster, &self.path(port)).await;
        opened.map_err(|source| PortForwardError::Open {
            resource: self.target.resource,
            name: self.target.name.clone(),
            source,
        })
    }

    /// Carries one local connection to its end. What goes wrong with one is no reason to end the others.
    async fn carry(self, port: ForwardedPort, connection: TcpStream) {
        let carried = async {
            // Keystrokes aren't kept back to be sent together; a connection that can't have that works too.
            let _ = connection.set_nodelay(true);
            let opened = self.open(port).await?;
            through(port, opened, connection).await
        };
        if let Err(error) = carried.await {
            eprintln!("{}", chain(&error));
        }
    }
}

/// A local port.
struct Forwarder {
    port: ForwardedPort,
    local: std::net::SocketAddr,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Forwarder {
    async fn listen(address: &str, port: ForwardedPort) -> Result<Self, PortForwardError> {
        let here = (address, port.local);
        let bound = async {
            Ok(match port.protocol {
                Protocol::Tcp => {
                    let listener = TcpListener::bind(here).await?;
                    (listener.local_addr()?, Socket::Tcp(listener))
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(here).await?;
                    (socket.local_addr()?, Socket::Udp(socket))
                }
            })
        };
        let bound = bound.await;
        let (local, socket) = bound.map_err(|source| PortForwardError::Listen {
            address: address.to_owned(),
            port: port.local,
            source,
        })?;
        Ok(Self { port, local, socket })
    }

    /// Forwards until the process ends, or nobody can connect any more.
    async fn forward(self, guest: Guest) -> Result<(), PortForwardError> {
        let port = self.port;
        let ended = match self.socket {
            Socket::Tcp(listener) => accept(&listener, port, &guest).await,
            Socket::Udp(socket) => udp::forward(socket, port, &guest).await,
        };
        Err(PortForwardError::Accept { port: port.target, source: ended })
    }
}

async fn accept(listener: &TcpListener, port: ForwardedPort, guest: &Guest) -> std::io::Error {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => drop(connections.spawn(guest.clone().carry(port, connection))),
                Err(error) => return error,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn outcome(port: ForwardedPort, end: RelayEnd) -> Result<(), PortForwardError> {
    let cut = |cause| Err(PortForwardError::Cut { port: port.target, cause });
    match end {
        // Whoever is connected here has heard how its own end was.
        RelayEnd::StreamEnded | RelayEnd::StreamFailed(_) | RelayEnd::Stopped => Ok(()),
        RelayEnd::PeerClosed(close) if close.code == NORMAL => Ok(()),
        RelayEnd::PeerClosed(close) => {
            cut(format!("websocket: close {} {}", close.code, close.reason).trim().to_owned())
        }
        RelayEnd::PeerLost(error) => cut(format!("websocket: close 1006 (abnormal closure): {error}")),
    }
}

#[cfg(test)]
mod tests;
