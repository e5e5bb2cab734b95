//! Two websockets. Frames are parsed on each leg, so each leg has its own pings and its own end.

use std::pin::pin;

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::{CLOSE_LIMIT, Close, ping, pings};

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Towards the person.
    Client,
    /// Towards the virtual machine.
    Server,
}

/// How a leg ended.
#[derive(Debug)]
pub enum LegEnd {
    /// With a close frame.
    Closed(Close),
    /// Without one.
    Lost(Error),
}

/// How [`pump`] ended.
#[derive(Debug)]
pub enum WebsocketsEnd {
    /// One leg ended; nothing was said to the other.
    Leg(Leg, LegEnd),
    /// We were told to stop; nothing was said to either.
    Stopped,
}

/// Carries data between two websockets until one ends or `stop` is cancelled, and leaves the other open: who
/// knows how to reach the same stream again may go on with another server. `delivered` counts the bytes
/// that the client has been sent.
pub async fn pump<C, S>(
    client: &mut WebSocketStream<C>,
    server: &mut WebSocketStream<S>,
    delivered: &mut u64,
    stop: &CancellationToken,
) -> WebsocketsEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client_sink, client_source) = client.split();
    let (server_sink, server_source) = server.split();
    let mut sent = 0;
    let mut up = pin!(one_way(client_source, server_sink, &mut sent));
    let mut down = pin!(one_way(server_source, client_sink, delivered));
    tokio::select! {
        end = &mut down => match end {
            OneWay::Source(end) => WebsocketsEnd::Leg(Leg::Server, end),
            OneWay::Sink(error) => WebsocketsEnd::Leg(Leg::Client, LegEnd::Lost(error)),
        },
        end = &mut up => match end {
            OneWay::Source(end) => WebsocketsEnd::Leg(Leg::Client, end),
            // What the server had sent before it went is still the client's.
            OneWay::Sink(error) => match timeout(CLOSE_LIMIT, down).await {
                Ok(OneWay::Source(end)) => WebsocketsEnd::Leg(Leg::Server, end),
                Ok(OneWay::Sink(error)) => WebsocketsEnd::Leg(Leg::Client, LegEnd::Lost(error)),
                Err(_) => WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(error)),
            },
        },
        () = stop.cancelled() => WebsocketsEnd::Stopped,
    }
}

enum OneWay {
    Source(LegEnd),
    Sink(Error),
}

async fn one_way<R, W>(mut source: R, mut sink: W, count: &mut u64) -> OneWay
where
    R: Stream<Item = Result<Message, Error>> + Unpin,
    W: Sink<Message, Error = Error> + Unpin,
{
    let mut pings = pings();
    loop {
        let message = tokio::select! {
            message = source.next() => match message {
                Some(Ok(Message::Binary(data))) => Message::Binary(data),
                Some(Ok(Message::Close(frame))) => return OneWay::Source(LegEnd::Closed(Close::from_frame(frame))),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => return OneWay::Source(LegEnd::Lost(error)),
                None => return OneWay::Source(LegEnd::Lost(Error::ConnectionClosed)),
            },
            _ = pings.tick() => ping(),
        };
        let bytes = if let Message::Binary(data) = &message { data.len() as u64 } else { 0 };
        if let Err(error) = sink.send(message).await {
            return OneWay::Sink(error);
        }
        *count += bytes;
    }
}
