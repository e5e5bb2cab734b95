//! A viewer of a screen, and servers that come and go behind it.

use std::time::Duration;

use futures::{Sink, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::leg::{Event, Leg};
use super::{Close, Hearing, LegEnd};
use crate::rfb::{Failure, Splice, Unfollowed};

#[cfg(test)]
mod tests;

/// Between a server that was lost before it was any use and the next.
const RETRY: Duration = Duration::from_millis(250);

/// A server of a screen.
#[derive(Debug)]
pub struct Server<T> {
    /// Carries RFB.
    pub websocket: WebSocketStream<T>,
    /// How many bytes of this session its launcher has taken before: [`Attached::received`](crate::attach::Attached::received). None
    /// where it doesn't count, or what it counts isn't what is sent here.
    pub received: Option<u64>,
}

/// Where a screen's servers come from.
pub trait Servers {
    /// What carries a websocket.
    type Io: AsyncRead + AsyncWrite + Unpin + Send;

    /// What the viewer is told when its server ends so; none where another server is looked for.
    fn verdict(&mut self, end: &LegEnd) -> Option<Close>;

    /// Looks for another server of the same screen, which nobody has seen for so long. An error is what the viewer is told.
    fn find(&mut self, lost_for: Duration) -> impl Future<Output = Result<Server<Self::Io>, Close>> + Send;

    /// The viewer is served again.
    fn resumed(&mut self);

    /// The stream can't be followed any more: it is carried as it comes, and ends with its server.
    fn unfollowed(&mut self, why: &Unfollowed);
}

/// How a screen ended.
#[derive(Debug)]
pub enum ScreenEnd {
    /// The viewer went.
    Viewer(LegEnd),
    /// The viewer was told so.
    Told(Close),
    /// We were told to stop; the viewer was told 1001.
    Stopped,
}

/// Carries a viewer's screen to its end, whatever becomes of the servers behind it: see [`Splice`]. The viewer's is a
/// websocket, or what [`viewer`] makes of a byte stream.
pub async fn carry_screen<Si, So, S>(
    (sink, source): (Si, So),
    server: Server<S::Io>,
    servers: &mut S,
    stop: &CancellationToken,
) -> ScreenEnd
where
    Si: Sink<Message, Error = Error> + Unpin,
    So: Stream<Item = Result<Message, Error>> + Unpin,
    S: Servers,
{
    let mut splice = Splice::new();
    let mut viewer = Leg::new(sink, source);
    let mut next = Ok(server);
    // Since when the viewer has had no server; none before the first is lost.
    let mut lost = None;
    loop {
        let Server { websocket, received } = match next {
            Ok(server) => server,
            Err(close) => return told(&mut splice, &mut viewer, close).await,
        };
        splice.attached(received);
        let (sink, source) = websocket.split();
        let mut server = Leg::new(sink, Hearing::new(source));
        let nothing = std::iter::empty;
        let end = match talk(&mut splice, &mut viewer, &mut server, servers, &mut lost, stop).await {
            TalkEnd::Server(end) => end,
            TalkEnd::Viewer(end) => {
                let close = match &end {
                    LegEnd::Closed(close) => close.clone(),
                    LegEnd::Lost(_) => Close::going_away(),
                };
                // What it did before it went is done.
                let rest = std::iter::from_fn(|| splice.take_for_server().map(Message::binary));
                tokio::join!(viewer.goodbye(nothing(), close.clone()), server.goodbye(rest, close));
                return ScreenEnd::Viewer(end);
            }
            TalkEnd::Stopped => {
                let close = Close::going_away;
                let rest = std::iter::from_fn(|| splice.take_for_server().map(Message::binary));
                tokio::join!(viewer.goodbye(nothing(), close()), server.goodbye(rest, close()));
                return ScreenEnd::Stopped;
            }
            TalkEnd::Failed(close) => {
                let (end, ()) = tokio::join!(
                    told(&mut splice, &mut viewer, close),
                    server.goodbye(nothing(), Close::normal())
                );
                return end;
            }
        };
        if let Some(close) = servers.verdict(&end) {
            let (end, ()) =
                tokio::join!(told(&mut splice, &mut viewer, close.clone()), server.goodbye(nothing(), close));
            return end;
        }
        drop(server);
        let moved = matches!(&end, LegEnd::Closed(close) if *close == Close::moved());
        if !splice.server_lost(moved) {
            return told(&mut splice, &mut viewer, Close::going_away()).await;
        }
        let again = lost.is_some();
        let since = *lost.get_or_insert_with(Instant::now);
        let find = async {
            if again {
                // So that a server that ends each session at once isn't asked all the time.
                sleep(RETRY).await;
            }
            servers.find(since.elapsed()).await
        };
        next = tokio::select! {
            found = find => found,
            end = attend(&mut splice, &mut viewer) => {
                let nobody = Close::going_away();
                viewer.goodbye(nothing(), nobody).await;
                return ScreenEnd::Viewer(end);
            }
            () = stop.cancelled() => {
                viewer.goodbye(nothing(), Close::going_away()).await;
                return ScreenEnd::Stopped;
            }
        };
    }
}

/// A viewer on a byte stream, as a websocket's two halves: bytes are binary messages, and other messages are nothing.
pub fn viewer<T>(
    stream: T,
) -> (
    impl Sink<Message, Error = Error> + Unpin + Send,
    impl Stream<Item = Result<Message, Error>> + Unpin + Send,
)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let sink = futures::sink::unfold(writer, |mut writer, message: Message| async move {
        match message {
            Message::Binary(data) => {
                writer.write_all(&data).await?;
                writer.flush().await?;
            }
            Message::Close(_) => writer.shutdown().await?,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(writer)
    });
    let source = ReaderStream::new(reader);
    let source = source.map(|read| read.map(Message::Binary).map_err(Error::Io));
    (Box::pin(sink), source)
}

enum TalkEnd {
    Viewer(LegEnd),
    Server(LegEnd),
    Failed(Close),
    Stopped,
}

/// Both talk, until one is gone or they don't understand each other.
async fn talk<VSi, VSo, SSi, SSo, S>(
    splice: &mut Splice,
    viewer: &mut Leg<VSi, VSo>,
    server: &mut Leg<SSi, SSo>,
    servers: &mut S,
    lost: &mut Option<Instant>,
    stop: &CancellationToken,
) -> TalkEnd
where
    VSi: Sink<Message, Error = Error> + Unpin,
    VSo: Stream<Item = Result<Message, Error>> + Unpin,
    SSi: Sink<Message, Error = Error> + Unpin,
    SSo: Stream<Item = Result<Message, Error>> + Unpin,
    S: Servers,
{
    loop {
        if let Some(failure) = splice.failure() {
            return TalkEnd::Failed(close_for(failure));
        }
        if splice.is_joined() && lost.take().is_some() {
            servers.resumed();
        }
        if let Some(why) = splice.take_unfollowed() {
            servers.unfollowed(&why);
        }
        hand_over(splice, viewer);
        if server.has_room() {
            let ack = |number: u64| Message::Ping(number.to_be_bytes().to_vec().into());
            let message = splice.take_for_server().map(Message::binary);
            if let Some(message) = message.or_else(|| splice.take_ack_request().map(ack)) {
                server.put(message);
            }
        }
        let (from_viewer, from_server) = (splice.wants_client(), splice.wants_server());
        tokio::select! {
            event = viewer.turn(from_viewer) => match event {
                Event::Said(bytes) => splice.from_client(&bytes),
                Event::Ended(end) => return TalkEnd::Viewer(end),
                Event::Sent | Event::Pong(_) => {}
            },
            event = server.turn(from_server) => match event {
                Event::Said(bytes) => splice.from_server(&bytes),
                Event::Pong(bytes) => {
                    if let Ok(number) = bytes.as_ref().try_into() {
                        splice.acked(u64::from_be_bytes(number));
                    }
                }
                Event::Ended(end) => return TalkEnd::Server(end),
                Event::Sent => {}
            },
            () = stop.cancelled() => return TalkEnd::Stopped,
        }
    }
}

/// Serves a viewer that has no server, until it goes.
async fn attend<Si, So>(splice: &mut Splice, viewer: &mut Leg<Si, So>) -> LegEnd
where
    Si: Sink<Message, Error = Error> + Unpin,
    So: Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        hand_over(splice, viewer);
        match viewer.turn(splice.wants_client()).await {
            Event::Said(bytes) => splice.from_client(&bytes),
            Event::Ended(end) => return end,
            Event::Sent | Event::Pong(_) => {}
        }
    }
}

fn hand_over<Si, So>(splice: &mut Splice, viewer: &mut Leg<Si, So>)
where
    Si: Sink<Message, Error = Error> + Unpin,
    So: Stream<Item = Result<Message, Error>> + Unpin,
{
    if viewer.has_room()
        && let Some(bytes) = splice.take_for_client()
    {
        viewer.put(Message::binary(bytes));
    }
}

/// Gives the viewer what it has coming, and ends it.
async fn told<Si, So>(splice: &mut Splice, viewer: &mut Leg<Si, So>, close: Close) -> ScreenEnd
where
    Si: Sink<Message, Error = Error> + Unpin,
    So: Stream<Item = Result<Message, Error>> + Unpin,
{
    let rest = std::iter::from_fn(|| splice.take_for_client().map(Message::binary));
    viewer.goodbye(rest, close.clone()).await;
    ScreenEnd::Told(close)
}

/// What the viewer is told.
fn close_for(failure: &Failure) -> Close {
    let code = match failure {
        // Protocol error.
        Failure::Viewer(_) => 1002,
        Failure::Server(_) => 1011,
        // It may come again, and will see the screen as it is.
        Failure::Unfollowed(_) | Failure::Size(..) => 1001,
    };
    Close { code, reason: failure.to_string() }
}
