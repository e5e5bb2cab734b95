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

/// Header of an upgrade response with which a server says that it knows [`END_OF_INPUT`].
pub const HALF_CLOSE_HEADER: &str = "kubevirt-stream-half-close";
/// A websocket can't be closed in one direction. This text frame says that its sender has no more data and
/// listens on; text frames mean nothing to those who don't know it.
const END_OF_INPUT: &str = "end of input";

/// What the end of one direction means for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halves {
    /// The end of both.
    Together,
    /// The stream's end is told, and the peer is listened to until it ends.
    Tell,
    /// The peer's end is passed on to the stream; the stream's is the end of both.
    Hear,
}

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
    relay_with(websocket, stream, stop, async |_| Close::normal()).await
}

/// As [`relay`], towards a server that sent [`HALF_CLOSE_HEADER`]: when the stream has no more to say, the peer's answer is
/// still carried to its end.
pub async fn relay_half_closing<W, S>(
    websocket: WebSocketStream<W>,
    stream: S,
    stop: &CancellationToken,
) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    carry(websocket, stream, stop, async |_| Close::normal(), Halves::Tell).await
}

/// As [`relay`], for a server that sends [`HALF_CLOSE_HEADER`]: a peer that has no more to say is the stream's end of file.
pub async fn relay_half_closed<W, S>(
    websocket: WebSocketStream<W>,
    stream: S,
    stop: &CancellationToken,
) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    carry(websocket, stream, stop, async |_| Close::normal(), Halves::Hear).await
}

/// As [`relay`]; `farewell` finds out what the peer is told when the byte stream comes to its end, behind so many bytes
/// that the peer was sent.
pub async fn relay_with<W, S>(
    websocket: WebSocketStream<W>,
    stream: S,
    stop: &CancellationToken,
    farewell: impl AsyncFnOnce(u64) -> Close,
) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    carry(websocket, stream, stop, farewell, Halves::Together).await
}

async fn carry<W, S>(
    websocket: WebSocketStream<W>,
    stream: S,
    stop: &CancellationToken,
    farewell: impl AsyncFnOnce(u64) -> Close,
    halves: Halves,
) -> RelayEnd
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    let (mut sink, mut source) = websocket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (end, goodbye) = {
        let mut to_peer = pin!(to_peer(&mut reader, &mut sink, farewell, halves));
        let mut from_peer = pin!(from_peer(&mut source, &mut writer, halves));
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
async fn to_peer<R, W>(
    reader: &mut R,
    sink: &mut W,
    farewell: impl AsyncFnOnce(u64) -> Close,
    halves: Halves,
) -> RelayEnd
where
    R: AsyncRead + Unpin,
    W: Sink<Message, Error = Error> + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    let mut pings = pings();
    let mut told = false;
    let mut said = 0;
    loop {
        let message = tokio::select! {
            read = reader.read(&mut buffer), if !told => match read {
                Ok(0) if halves == Halves::Tell => {
                    told = true;
                    Message::text(END_OF_INPUT)
                }
                Ok(0) => {
                    send_close(sink, farewell(said).await).await;
                    return RelayEnd::StreamEnded;
                }
                Ok(n) => {
                    said += n as u64;
                    Message::binary(buffer[..n].to_vec())
                }
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
async fn from_peer<R, W>(source: &mut R, writer: &mut W, halves: Halves) -> FromPeer
where
    R: Stream<Item = Result<Message, Error>> + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let data = match source.next().await {
            Some(Ok(Message::Binary(data))) => data,
            Some(Ok(Message::Close(frame))) => return FromPeer::Closed(Close::from_frame(frame)),
            Some(Ok(Message::Text(text))) if halves == Halves::Hear && text.as_str() == END_OF_INPUT => {
                match writer.shutdown().await {
                    Ok(()) => continue,
                    Err(error) => return FromPeer::StreamFailed(error),
                }
            }
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
