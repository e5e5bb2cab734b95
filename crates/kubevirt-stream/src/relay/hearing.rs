//! A peer that pings is never silent for long: one that is has gone, and nobody was told. A node that loses its power sends
//! no end, and TCP waits for it a quarter of an hour.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SILENCE_LIMIT;

/// What a peer says that is known to ping, and an error when it says nothing for too long. Only a wait for it can fail so: what
/// is there already is heard first, however late.
#[derive(Debug)]
pub struct Hearing<S> {
    source: S,
    silence: Pin<Box<Sleep>>,
}

impl<S> Hearing<S> {
    /// The silence begins now.
    pub fn new(source: S) -> Self {
        Self { source, silence: Box::pin(sleep(SILENCE_LIMIT)) }
    }
}

impl<S> Stream for Hearing<S>
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(said) = self.source.poll_next_unpin(cx) {
            self.silence.as_mut().reset(Instant::now() + SILENCE_LIMIT);
            return Poll::Ready(said);
        }
        ready!(self.silence.as_mut().poll(cx));
        let words = format!("nothing was heard for {} s", SILENCE_LIMIT.as_secs());
        Poll::Ready(Some(Err(Error::Io(io::Error::new(io::ErrorKind::TimedOut, words)))))
    }
}
