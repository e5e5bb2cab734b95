//! One end of a spliced stream. It is read while it is written, and a wait that is given up loses nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::{Instant, Interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::{CLOSE_LIMIT, Close, LegEnd, await_close, ping, pings, send_close};

/// What happens at an end.
#[derive(Debug)]
pub(super) enum Event {
    /// It may have room for another message.
    Sent,
    Said(Bytes),
    Pong(Bytes),
    Ended(LegEnd),
}

/// One end, and at most one message for it.
pub(super) struct Leg<Si, So> {
    sink: Si,
    source: So,
    out: Option<Message>,
    unflushed: bool,
    pings: Interval,
    /// It takes nothing any more. What it had said before is still worth reading: it may say why.
    broken: Option<(Error, Instant)>,
}

impl<Si, So> Leg<Si, So>
where
    Si: Sink<Message, Error = Error> + Unpin,
    So: Stream<Item = Result<Message, Error>> + Unpin,
{
    pub(super) fn new(sink: Si, source: So) -> Self {
        Self { sink, source, out: None, unflushed: false, pings: pings(), broken: None }
    }

    /// Whether it has room for a message.
    pub(super) fn has_room(&self) -> bool {
        self.out.is_none()
    }

    /// Gives it a message, for which it must have room.
    pub(super) fn put(&mut self, message: Message) {
        self.out = Some(message);
    }

    /// Waits until something happens. May be dropped at any time.
    pub(super) async fn turn(&mut self, listen: bool) -> Event {
        let given_up = self.broken.as_ref().map(|(_, at)| *at);
        let sends = given_up.is_none();
        let (sink, out, unflushed) = (&mut self.sink, &mut self.out, &mut self.unflushed);
        tokio::select! {
            sent = poll_fn(|cx| send(sink, out, unflushed, cx)), if sends && (out.is_some() || *unflushed) => {
                if let Err(error) = sent {
                    self.broken = Some((error, Instant::now() + CLOSE_LIMIT));
                }
                Event::Sent
            }
            message = self.source.next(), if listen => match message {
                Some(Ok(Message::Binary(data))) => Event::Said(data),
                Some(Ok(Message::Pong(data))) => Event::Pong(data),
                Some(Ok(Message::Close(frame))) => Event::Ended(LegEnd::Closed(Close::from_frame(frame))),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Frame(_))) => Event::Sent,
                Some(Err(error)) => Event::Ended(LegEnd::Lost(error)),
                None => Event::Ended(LegEnd::Lost(Error::ConnectionClosed)),
            },
            _ = self.pings.tick(), if sends => {
                // Who has messages under way needs no sign of life.
                self.out.get_or_insert_with(ping);
                Event::Sent
            }
            () = sleep_until(given_up.unwrap_or_else(Instant::now)), if given_up.is_some() => {
                let error = self.broken.take().map_or(Error::ConnectionClosed, |(error, _)| error);
                Event::Ended(LegEnd::Lost(error))
            }
        }
    }

    /// Sends what is left, says goodbye and waits for the answer.
    pub(super) async fn goodbye(&mut self, rest: impl Iterator<Item = Message>, close: Close) {
        let last = async {
            for message in self.out.take().into_iter().chain(rest) {
                self.sink.send(message).await?;
            }
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = timeout(CLOSE_LIMIT, last).await {
            tracing::debug!(%error, "the peer doesn't take what is left");
        }
        send_close(&mut self.sink, close).await;
        await_close(&mut self.source).await;
    }
}

/// Sends the message, if there still is one, and flushes.
fn send<Si>(
    sink: &mut Si,
    out: &mut Option<Message>,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>>
where
    Si: Sink<Message, Error = Error> + Unpin,
{
    if out.is_some() {
        ready!(Pin::new(&mut *sink).poll_ready(cx))?;
        if let Some(message) = out.take() {
            Pin::new(&mut *sink).start_send(message)?;
            *unflushed = true;
        }
    }
    ready!(Pin::new(sink).poll_flush(cx))?;
    *unflushed = false;
    Poll::Ready(Ok(()))
}
