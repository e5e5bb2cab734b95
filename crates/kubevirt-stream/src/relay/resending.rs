//! Two websockets, of which the server's may be replaced: what the client sends is kept until the server's stream has it,
//! and is sent again to the next server.
//!
//! A ping with a position asks the server. Its relay writes each message to its stream before it reads the next, so
//! its pong says that all before the ping is written there.
//!
//! What the client is given counts when its socket has it. So a message for the client is never given up halfway while its
//! server may be replaced: it would be counted too early or too late, and lost or said twice.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::hearing::Hearing;
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
    /// Nothing is sent yet, and the server's launcher has taken `received` bytes of the session before, if it counts. Then a client
    /// that `comes_back` is told what is taken: it can only count what the launcher counts.
    pub fn new(received: Option<u64>, comes_back: bool) -> Self {
        Self { resend: Resend::new(received), ended: None, tells: comes_back && received.is_some() }
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
    /// The server takes nothing any more.
    deaf: AtomicBool,
}

impl<'a> Shared<'a> {
    fn new(typing: &'a mut Typing) -> Self {
        Self {
            typing: Mutex::new(typing),
            taken: Notify::new(),
            more: Notify::new(),
            deaf: AtomicBool::new(false),
        }
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

    /// Hears the client to its end, and waits until all that it sent is taken.
    async fn hear_out<R>(&self, source: &mut R)
    where
        R: Stream<Item = Result<Message, Error>> + Unpin,
    {
        self.hear_client(source).await;
        let all_taken = async {
            while !self.lock().resend.is_empty() {
                self.taken.notified().await;
            }
        };
        if timeout(CLOSE_LIMIT, all_taken).await.is_err() {
            tracing::debug!("not all that the client sent last is taken");
        }
    }

    /// Whether the client has gone. It can't be told anything then, but what it said last is still on its way.
    fn has_left(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// The end of a client that is heard out. None for its own: a server that takes nothing isn't what its last words end at,
    /// another may take them.
    fn end_of_client(&self) -> Option<WebsocketsEnd> {
        let unsaid = self.deaf.load(Ordering::Relaxed) && !self.lock().is_over();
        unsaid.then_some(WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(Error::ConnectionClosed)))
    }

    /// Tells the server what there is to tell until it takes nothing any more, and so much later says why.
    async fn tell<W>(&self, sink: W, lost: oneshot::Sender<Error>) -> Infallible
    where
        W: Sink<Message, Error = Error> + Unpin,
    {
        let error = self.tell_server(sink).await;
        self.deaf.store(true, Ordering::Relaxed);
        // It may still have something to say, such as why.
        sleep(CLOSE_LIMIT).await;
        // Nobody listens who has heard by himself that it is lost.
        let _ = lost.send(error);
        std::future::pending().await
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

    /// Gives the client what the server says, until one of them ends, or the server is `lost`: that ends the waiting for what
    /// it says, never the giving.
    async fn hear_server<R, W>(
        &self,
        mut source: R,
        mut sink: W,
        delivered: &mut u64,
        mut lost: oneshot::Receiver<Error>,
    ) -> WebsocketsEnd
    where
        R: Stream<Item = Result<Message, Error>> + Unpin,
        W: Sink<Message, Error = Error> + Unpin,
    {
        let server = |end| WebsocketsEnd::Leg(Leg::Server, end);
        let mut pings = pings();
        loop {
            let message = tokio::select! {
                // All that is there is heard before the server is given up.
                biased;
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
                error = &mut lost => return server(LegEnd::Lost(error.unwrap_or(Error::ConnectionClosed))),
                _ = pings.tick() => ping(),
            };
            if self.has_left() {
                continue;
            }
            let bytes = if let Message::Binary(data) = &message { data.len() as u64 } else { 0 };
            if let Err(error) = sink.send(message).await {
                if self.has_left() {
                    continue;
                }
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
/// taken, or after a time limit. A server that is silent is lost: it has to ping. A client isn't: one that doesn't read for a
/// while, as a terminal that is stopped, doesn't answer pings either, and one that is gone is the connection's to find.
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
        let (lose, lost) = oneshot::channel();
        tokio::select! {
            end = shared.hear_server(Hearing::new(server_source), client_sink, delivered, lost) => Some(end),
            never = shared.tell(server_sink, lose) => match never {},
            () = shared.hear_out(&mut client_source) => shared.end_of_client(),
            () = stop.cancelled() => Some(WebsocketsEnd::Stopped),
        }
    };
    end.unwrap_or_else(|| {
        let ended = typing.ended.take().unwrap_or(LegEnd::Lost(Error::ConnectionClosed));
        WebsocketsEnd::Leg(Leg::Client, ended)
    })
}

/// While there is no server: takes in what the client sends, as far as there is room, and shows it that somebody is there.
/// Returns when nothing is left to be sent to a server.
pub async fn hold<C>(client: &mut WebSocketStream<C>, typing: &mut Typing)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    {
        let (sink, mut source) = client.split();
        let shared = Shared::new(typing);
        tokio::select! {
            () = shared.hear_client(&mut source) => {}
            never = keep_alive(sink) => match never {},
        }
    }
    if !typing.is_over() {
        std::future::pending::<()>().await;
    }
}

/// Pings. That they can't be sent is the reader's to find.
async fn keep_alive<W>(mut sink: W) -> Infallible
where
    W: Sink<Message, Error = Error> + Unpin,
{
    let mut pings = pings();
    loop {
        pings.tick().await;
        if sink.send(ping()).await.is_err() {
            return std::future::pending().await;
        }
    }
}
