//! Carries bytes between a websocket and a byte stream, or between two websockets: every byte once
//! and in order, with backpressure, and with a close code that says how it ended.
//!
//! Data is binary frames; text frames mean nothing here and are dropped.

mod bytes;
mod hearing;
mod leg;
mod resending;
mod screen;
#[cfg(test)]
mod tests;
mod websockets;

use std::time::Duration;

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

pub use bytes::{HALF_CLOSE_HEADER, RelayEnd, relay, relay_half_closed, relay_half_closing, relay_with};
pub use hearing::Hearing;
pub use resending::{Typing, hold, pump_resending};
pub use screen::{ScreenEnd, Server, Servers, carry_screen, viewer};
pub use websockets::{Leg, LegEnd, WebsocketsEnd};

/// Load balancers cut what is idle for a minute, some after twenty seconds.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that pings and isn't heard for so long is lost. Three pings may be, and the fourth is late.
const SILENCE_LIMIT: Duration = Duration::from_secs(35);
/// A peer gets so long to answer a close frame, or to take it.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// A close frame's reason may be no longer.
const REASON_LIMIT: usize = 123;

/// How a peer closed a websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// 1000 is a normal end. 1005 stands for a close frame without a code.
    pub code: u16,
    #[allow(missing_docs)]
    pub reason: String,
}

impl Close {
    /// The code of a close frame that has none.
    const NO_CODE: u16 = 1005;

    /// A normal end.
    pub fn normal() -> Self {
        Self { code: 1000, reason: String::new() }
    }

    /// We stop, what is carried goes on: come again.
    pub fn going_away() -> Self {
        Self { code: 1001, reason: "the server is shutting down".into() }
    }

    /// What is carried goes on at another server: come again.
    pub fn moved() -> Self {
        Self { code: 1001, reason: "the guest moves to another node".into() }
    }

    /// Bytes are lost, because the peer took them too slowly.
    pub fn too_slow() -> Self {
        Self { code: 1008, reason: "too slow: output was lost".into() }
    }

    /// Something broke here.
    pub fn internal_error(reason: impl Into<String>) -> Self {
        Self { code: 1011, reason: reason.into() }
    }

    fn from_frame(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self { code: frame.code.into(), reason: frame.reason.as_str().to_owned() },
            None => Self { code: Self::NO_CODE, reason: String::new() },
        }
    }

    fn into_frame(self) -> Option<CloseFrame> {
        if self.code == Self::NO_CODE {
            return None;
        }
        let mut end = self.reason.len().min(REASON_LIMIT);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        Some(CloseFrame { code: CloseCode::from(self.code), reason: self.reason[..end].into() })
    }
}

/// Ticks for pings. The first is after one interval; late ones are not made up for.
fn pings() -> Interval {
    let mut interval = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn ping() -> Message {
    Message::Ping(b"keep alive".as_slice().into())
}

/// Sends a close frame. A peer that is gone or doesn't take it is no news.
async fn send_close<S>(sink: &mut S, close: Close)
where
    S: Sink<Message, Error = Error> + Unpin,
{
    if let Ok(Err(error)) = timeout(CLOSE_LIMIT, sink.send(Message::Close(close.into_frame()))).await {
        tracing::debug!(%error, "close frame not sent");
    }
}

/// Ends a websocket that [`pump_resending`] has left open: says so, and waits for the answer.
pub async fn goodbye<S>(websocket: &mut WebSocketStream<S>, close: Close)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_close(websocket, close).await;
    await_close(websocket).await;
}

/// Reads on until the peer has closed, which also sends our answer to its close frame.
async fn await_close<S>(source: &mut S)
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    let closed = async { while let Some(Ok(_)) = source.next().await {} };
    if timeout(CLOSE_LIMIT, closed).await.is_err() {
        tracing::debug!("the peer did not answer the close frame");
    }
}
