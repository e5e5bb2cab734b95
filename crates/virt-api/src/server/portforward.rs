//! portforward: virt-api itself dials the guest's port; only when somebody answers there, the client's connection
//! becomes a websocket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderValue;
use kubevirt_runtime::serve::StreamTracker;
use kubevirt_stream::relay::{HALF_CLOSE_HEADER, relay_half_closed};
use kubevirt_stream::websocket::Upgrade;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Shared;
use crate::datagrams::Datagrams;
use crate::metrics::OpenStream;
use crate::portforward::{Port, Target, Transport, address, started, unanswered};
use crate::refusal::Refusal;

/// A guest on the same network answers within milliseconds; one that drops what it gets never does.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// The path's parameters.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    namespace: String,
    name: String,
    port: String,
    protocol: Option<String>,
}

/// A connection to a guest.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Opens a tunnel.
pub async fn open(
    State(app): Shared,
    target: Target,
    wanted: Wanted,
    mut request: Request,
) -> Result<Response, Refusal> {
    let Wanted { namespace, name, port, protocol } = wanted;
    let port = Port::parse(&port, protocol.as_deref())?;
    let streams = request.extensions().get::<StreamTracker>().cloned();
    let streams = streams.ok_or_else(|| Refusal::internal("no one keeps count of streams here"))?;
    if target == Target::Vm {
        started(&app.vm(&namespace, &name).await?)?;
    }
    let vmi = app.vmi(&namespace, &name).await?;
    let address = address(&vmi, port)?;
    // A request that can't become a websocket opens no connection to a guest.
    let upgrade =
        Upgrade::from_request(&mut request).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let connection = match timeout(DIAL_LIMIT, dial(address, port.transport)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(unanswered(&vmi, port, &error.to_string())),
        Err(_) => {
            let why = format!("no answer from {address} in {} s", DIAL_LIMIT.as_secs());
            return Err(unanswered(&vmi, port, &why));
        }
    };
    let mut response: Response = upgrade.response();
    response.headers_mut().insert(HALF_CLOSE_HEADER, HeaderValue::from_static("true"));
    let stop = streams.stop().clone();
    streams.spawn(async move {
        let _open = OpenStream::tunnel(&namespace, &name);
        match upgrade.websocket().await {
            Ok(client) => {
                tracing::info!(namespace, name, port = port.number, "tunnel begins");
                let end = relay_half_closed(client, connection, &stop).await;
                tracing::info!(namespace, name, port = port.number, ?end, "tunnel ends");
            }
            Err(error) => tracing::info!(%error, "the client went before its tunnel began"),
        }
    });
    Ok(response)
}

async fn dial(address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Connection>> {
    match transport {
        Transport::Tcp => {
            let connection = TcpStream::connect(address).await?;
            // What comes as one message is sent as such: waiting for more would slow every keystroke down.
            connection.set_nodelay(true)?;
            Ok(Box::new(connection))
        }
        Transport::Udp => {
            let any: SocketAddr = match address {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            Ok(Box::new(Datagrams(socket)))
        }
    }
}
