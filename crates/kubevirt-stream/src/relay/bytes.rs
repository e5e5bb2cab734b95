//! One websocket, one byte stream.

use std::pin::pin;

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::{CLOSE_LIMIT, Close, await_close, ping, pings, send_close};

/// Go's `io.Copy` takes as much at a time: peers are used to it.
const CHUNK: usize = 32 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// The byte stream came to its end; the peer was told 1000, or what [`relay_with`] was given.
    StreamEnded,
    /// The byte stream broke; the peer was told 1011.
    StreamFailed(std::io::Error),
    /// The peer closed the websocket.
    PeerClosed(Close),
    /// The websocket broke.
    PeerLost(Error),
    /// We were told to stop; the peer was told 1001.
    Stopped,
}

/// How the way from the peer to the stream ended.
enum FromPeer {
    Closed(Close),
    Lost(Error),
    StreamFailed(std::io::Error),
}

/// Carries bytes both ways until one side ends or `stop` is cancelled.
///
/// Each way holds at most one message: who reads slowly slows down who writes.
pub async fn relay<W, S>(websocket: WebSocketStream<W>, stream: S, stop: &CancellationToken) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    relay_with(websocket, stream, stop, std::future::ready(Close::normal())).await
}

/// As [`relay`]; `farewell` finds out what the peer is told when the byte stream comes to its end.
pub async fn relay_with<W, S>(
    websocket: WebSocketStream<W>,
    stream: S,
    stop: &CancellationToken,
    farewell: impl Future<Output = Close>,
) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    let (mut sink, mut source) = websocket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (end, goodbye) = {
        let mut to_peer = pin!(to_peer(&mut reader, &mut sink, farewell));
        let mut from_peer = pin!(from_peer(&mut source, &mut writer));
        tokio::select! {
            end = &mut to_peer => {
                // What the peer sent before it saw our close frame still goes to the stream.
                if timeout(CLOSE_LIMIT, from_peer).await.is_err() {
                    tracing::debug!("the peer did not answer the close frame");
                }
                (end, None)
            }
            end = &mut from_peer => match end {
                FromPeer::Closed(close) => (RelayEnd::PeerClosed(close), None),
                FromPeer::Lost(error) => (RelayEnd::PeerLost(error), None),
                // Its other end is gone, but what it had sent before is still the peer's.
                FromPeer::StreamFailed(error) => match timeout(CLOSE_LIMIT, to_peer).await {
                    Ok(end) => (end, None),
                    Err(_) => {
                        let goodbye = Close::internal_error(error.to_string());
                        (RelayEnd::StreamFailed(error), Some(goodbye))
                    }
                },
            },
            () = stop.cancelled() => (RelayEnd::Stopped, Some(Close::going_away())),
        }
    };
    if let Some(close) = goodbye {
        send_close(&mut sink, close).await;
    }
    if let Err(error) = writer.shutdown().await {
        tracing::debug!(%error, "shutting the stream down");
    }
    await_close(&mut source).await;
    end
}

/// Sends what the stream says, pings in between, and at its end a close frame.
async fn to_peer<R, W>(reader: &mut R, sink: &mut W, farewell: impl Future<Output = Close>) -> RelayEnd
where
    R: AsyncRead + Unpin,
    W: Sink<Message, Error = Error> + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    let mut pings = pings();
    loop {
        let message = tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) => {
                    send_close(sink, farewell.await).await;
                    return RelayEnd::StreamEnded;
                }
                Ok(n) => Message::binary(buffer[..n].to_vec()),
                Err(error) => {
                    send_close(sink, Close::internal_error(error.to_string())).await;
                    return RelayEnd::StreamFailed(error);
                }
            },
            _ = pings.tick() => ping(),
        };
        if let Err(error) = sink.send(message).await {
            return RelayEnd::PeerLost(error);
        }
    }
}

/// Gives the stream what the peer sends.
async fn from_peer<R, W>(source: &mut R, writer: &mut W) -> FromPeer
where
    R: Stream<Item = Result<Message, Error>> + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let data = match source.next().await {
            Some(Ok(Message::Binary(data))) => data,
            Some(Ok(Message::Close(frame))) => return FromPeer::Closed(Close::from_frame(frame)),
            Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(error)) => return FromPeer::Lost(error),
            None => return FromPeer::Lost(Error::ConnectionClosed),
        };
        let written = async {
            writer.write_all(&data).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return FromPeer::StreamFailed(error);
        }
    }
}
