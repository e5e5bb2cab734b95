//! Two websockets, of which the server's may be replaced: what the client sends is kept until the server's stream has it,
//! and is sent again to the next server.
//!
//! A ping with a position asks the server. Its relay writes each message to its stream before it reads the next, so
//! its pong says that all before the ping is written there.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::websockets::{Leg, LegEnd, WebsocketsEnd};
use super::{CLOSE_LIMIT, Close, ping, pings};
use crate::resend::{Resend, payload, position};

/// What is sent in one message.
const CHUNK: usize = 16 * 1024;

/// What a client has sent, over all servers that carry it.
#[derive(Debug, Default)]
pub struct Typing {
    resend: Resend,
    /// How the client has ended, while what it sent last is still on its way.
    ended: Option<LegEnd>,
    /// Whether the client is told what is taken, in pongs that it hasn't asked for.
    tells: bool,
}

impl Typing {
    /// Nothing is sent yet. The next byte has this position; `tells` a client that may come back what is taken.
    pub fn starting_at(position: u64, tells: bool) -> Self {
        Self { resend: Resend::starting_at(position), ended: None, tells }
    }

    /// A new server, whose stream had taken `received` bytes of the session. Returns how many bytes are lost.
    pub fn resume(&mut self, received: Option<u64>) -> u64 {
        self.resend.resume(received)
    }

    /// Whether nothing more is to be sent: the client has gone, and all that it said is taken, or it broke off: then what
    /// isn't taken is its own to send again.
    pub fn is_over(&self) -> bool {
        match &self.ended {
            None => false,
            Some(LegEnd::Closed(_)) => self.resend.is_empty(),
            Some(LegEnd::Lost(_)) => true,
        }
    }
}

/// [`Typing`] between the tasks of one pump.
struct Shared<'a> {
    typing: Mutex<&'a mut Typing>,
    /// For the client's reader: something was taken.
    taken: Notify,
    /// For the server's writer: something is to be sent or asked.
    more: Notify,
}

impl<'a> Shared<'a> {
    fn new(typing: &'a mut Typing) -> Self {
        Self { typing: Mutex::new(typing), taken: Notify::new(), more: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, &'a mut Typing> {
        self.typing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the client sends, as far as there is room, until it ends.
    async fn hear_client<R>(&self, source: &mut R)
    where
        R: Stream<Item = Result<Message, Error>> + Unpin,
    {
        while self.lock().ended.is_none() {
            if !self.lock().resend.has_room() {
                self.taken.notified().await;
                continue;
            }
            let end = match source.next().await {
                Some(Ok(Message::Binary(data))) => {
                    self.lock().resend.push(&data);
                    self.more.notify_one();
                    continue;
                }
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    continue;
                }
                Some(Ok(Message::Close(frame))) => LegEnd::Closed(Close::from_frame(frame)),
                Some(Err(error)) => LegEnd::Lost(error),
                None => LegEnd::Lost(Error::ConnectionClosed),
            };
            self.lock().ended = Some(end);
        }
    }

    /// Waits until all that the client sent is taken.
    async fn all_taken(&self) {
        while !self.lock().resend.is_empty() {
            self.taken.notified().await;
        }
    }

    /// Sends and asks until the server can't be sent anything.
    async fn tell_server<W>(&self, mut sink: W) -> Error
    where
        W: Sink<Message, Error = Error> + Unpin,
    {
        let mut pings = pings();
        loop {
            let next = self.lock().resend.next(CHUNK);
            let message = if let Some(bytes) = next {
                Message::binary(bytes)
            } else if let Some(position) = { self.lock().resend.question() } {
                Message::Ping(payload(position).into())
            } else {
                tokio::select! {
                    () = self.more.notified() => continue,
                    // Peers may answer only the last of several pings: each one asks.
                    _ = pings.tick() => Message::Ping(payload(self.lock().resend.ask()).into()),
                }
            };
            if let Err(error) = sink.send(message).await {
                return error;
            }
        }
    }

    /// Gives the client what the server says, until one of them ends.
    async fn hear_server<R, W>(&self, mut source: R, mut sink: W, delivered: &mut u64) -> WebsocketsEnd
    where
        R: Stream<Item = Result<Message, Error>> + Unpin,
        W: Sink<Message, Error = Error> + Unpin,
    {
        let server = |end| WebsocketsEnd::Leg(Leg::Server, end);
        let mut pings = pings();
        loop {
            let message = tokio::select! {
                message = source.next() => match message {
                    Some(Ok(Message::Binary(data))) => Message::Binary(data),
                    Some(Ok(Message::Pong(data))) => match self.taken(&data) {
                        Some(told) => told,
                        None => continue,
                    },
                    Some(Ok(Message::Close(frame))) => return server(LegEnd::Closed(Close::from_frame(frame))),
                    Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Frame(_))) => continue,
                    Some(Err(error)) => return server(LegEnd::Lost(error)),
                    None => return server(LegEnd::Lost(Error::ConnectionClosed)),
                },
                _ = pings.tick() => ping(),
            };
            let bytes = if let Message::Binary(data) = &message { data.len() as u64 } else { 0 };
            if let Err(error) = sink.send(message).await {
                return WebsocketsEnd::Leg(Leg::Client, LegEnd::Lost(error));
            }
            *delivered += bytes;
        }
    }

    /// The server's answer; what the client is told of it.
    fn taken(&self, answer: &[u8]) -> Option<Message> {
        let position = position(answer)?;
        let mut typing = self.lock();
        typing.resend.acknowledge(position);
        self.taken.notify_one();
        self.more.notify_one();
        typing.tells.then(|| Message::Pong(payload(typing.resend.taken()).into()))
    }
}

/// Carries data between two websockets until one ends or `stop` is cancelled, and leaves the other open. `delivered` counts the
/// bytes that the client has been sent; what the client sends is kept in `typing` until the server's stream has taken it. With
/// [`crate::resend::WINDOW`] bytes on their way the client isn't read. A client's end is told when what it sent last is
/// taken, or after a time limit.
pub async fn pump_resending<C, S>(
    client: &mut WebSocketStream<C>,
    server: &mut WebSocketStream<S>,
    delivered: &mut u64,
    typing: &mut Typing,
    stop: &CancellationToken,
) -> WebsocketsEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let end = {
        let (client_sink, mut client_source) = client.split();
        let (server_sink, server_source) = server.split();
        let shared = Shared::new(typing);
        let mut down = pin!(shared.hear_server(server_source, client_sink, delivered));
        let up = async {
            shared.hear_client(&mut client_source).await;
            if timeout(CLOSE_LIMIT, shared.all_taken()).await.is_err() {
                tracing::debug!("not all that the client sent last is taken");
            }
        };
        tokio::select! {
            end = &mut down => Some(end),
            error = shared.tell_server(server_sink) => match timeout(CLOSE_LIMIT, down).await {
                // What the server had sent before it went is still the client's.
                Ok(end) => Some(end),
                Err(_) => Some(WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(error))),
            },
            () = up => None,
            () = stop.cancelled() => Some(WebsocketsEnd::Stopped),
        }
    };
    end.unwrap_or_else(|| {
        let ended = typing.ended.take().unwrap_or(LegEnd::Lost(Error::ConnectionClosed));
        WebsocketsEnd::Leg(Leg::Client, ended)
    })
}

/// While there is no server: takes in what the client sends, as far as there is room. Returns when nothing is left to be
/// sent to a server.
pub async fn hold<C>(client: &mut WebSocketStream<C>, typing: &mut Typing)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    Shared::new(typing).hear_client(client).await;
    if !typing.is_over() {
        std::future::pending::<()>().await;
    }
}
