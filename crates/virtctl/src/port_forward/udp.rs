//! UDP: each local sender has a websocket of its own, which ends when it has been silent for a while.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kubevirt_stream::relay::relay;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::{Guest, outcome};
use crate::cli::port::ForwardedPort;
use crate::cluster::chain;

/// Nobody says goodbye in UDP: who is silent for so long has gone. Firewalls forget as soon.
const SILENCE: Duration = Duration::from_secs(60);
/// Datagrams that wait for a tunnel; what comes while it is full is lost, as on any wire.
const QUEUE: usize = 64;
/// No datagram is longer.
const LONGEST: usize = 64 * 1024;

/// Forwards datagrams until the socket fails.
pub(super) async fn forward(socket: UdpSocket, port: ForwardedPort, guest: &Guest) -> io::Error {
    let socket = Arc::new(socket);
    let mut senders: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tunnels = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // Linux tells on the next call that an answer reached nobody.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return error,
            },
            Some(_) = tunnels.join_next() => {
                senders.retain(|_, sender| !sender.is_closed());
                continue;
            }
        };
        let sender = senders.entry(from).or_insert_with(|| {
            let (sender, incoming) = mpsc::channel(QUEUE);
            let local =
                Sender { socket: socket.clone(), address: from, incoming, silence: Box::pin(sleep(SILENCE)) };
            tunnels.spawn(carry(guest.clone(), port, local));
            sender
        });
        // Full or just ended: the sender says it again, if it matters.
        let _ = sender.try_send(buffer[..length].to_vec());
    }
}

async fn carry(guest: Guest, port: ForwardedPort, local: Sender) {
    let carried = async {
        let opened = guest.open(port).await?;
        outcome(port, relay(opened.websocket, local, &CancellationToken::new()).await)
    };
    if let Err(error) = carried.await {
        eprintln!("{}", chain(&error));
    }
}

/// A local sender as a byte stream: each read is a datagram, each write becomes one.
struct Sender {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    incoming: mpsc::Receiver<Vec<u8>>,
    silence: Pin<Box<Sleep>>,
}

impl Sender {
    fn heard(&mut self) {
        self.silence.as_mut().reset(Instant::now() + SILENCE);
    }
}

impl AsyncRead for Sender {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.incoming.poll_recv(cx) {
                Poll::Ready(Some(datagram)) => {
                    self.heard();
                    if datagram.is_empty() {
                        continue;
                    }
                    let length = datagram.len().min(buf.remaining());
                    buf.put_slice(&datagram[..length]);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(self.silence.as_mut().poll(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Sender {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.heard();
        self.socket.poll_send_to(cx, buf, self.address)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
