//! Who sits at a console or a screen: one at a time.
//!
//! Owns the seat; never sees a byte of what is said.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kubevirt_stream::attach::AttachRequest;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The seat is taken by somebody who must not be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("Active {what} connection. Request denied.")]
pub struct Busy {
    what: &'static str,
}

/// One seat.
#[derive(Debug)]
pub struct Sessions {
    what: &'static str,
    seat: Mutex<Seat>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Seat {
    /// Counts everybody who ever sat here.
    number: u64,
    taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    session: String,
    /// Tells it to leave.
    leave: CancellationToken,
    /// It has left.
    left: CancellationToken,
}

/// Somebody who sits; leaves when dropped.
#[derive(Debug)]
pub struct Sitting {
    sessions: Arc<Sessions>,
    number: u64,
    /// Cancelled when somebody else takes the seat.
    pub replaced: CancellationToken,
    /// Cancelled when we leave.
    left: CancellationToken,
    /// Cancelled when whoever sat here before has left.
    former: CancellationToken,
}

impl Sessions {
    /// An empty seat at `what`, as messages call it.
    pub fn new(what: &'static str) -> Arc<Self> {
        Arc::new(Self { what, seat: Mutex::default(), left: Notify::new() })
    }

    /// Sits down. The newest wins, unless it says that it would rather not; a session that
    /// comes back finds its own former self in the seat, and may always replace that.
    pub fn sit(self: &Arc<Self>, request: &AttachRequest) -> Result<Sitting, Busy> {
        let mut seat = self.seat();
        let mut former = CancellationToken::new();
        match &seat.taken {
            Some(taken) => {
                let session = &taken.session;
                if request.preserve_session && *session != request.session {
                    return Err(Busy { what: self.what });
                }
                tracing::info!(socket = self.what, session, by = request.session, "a session is replaced");
                taken.leave.cancel();
                former = taken.left.clone();
            }
            None => former.cancel(),
        }
        let (replaced, left) = (CancellationToken::new(), CancellationToken::new());
        seat.number += 1;
        let session = request.session.clone();
        seat.taken = Some(Taken { session, leave: replaced.clone(), left: left.clone() });
        Ok(Sitting { sessions: Arc::clone(self), number: seat.number, replaced, left, former })
    }

    /// Has whoever sits leave, and waits until he has.
    pub async fn clear(&self) {
        let left = self.seat().taken.as_ref().map(|taken| {
            taken.leave.cancel();
            taken.left.clone()
        });
        if let Some(left) = left {
            left.cancelled().await;
        }
    }

    /// Waits until nobody sits.
    pub async fn vacant(&self) {
        loop {
            // Made before the look, so that nobody leaves unseen in between.
            let left = self.left.notified();
            if self.seat().taken.is_none() {
                return;
            }
            left.await;
        }
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sitting {
    /// Waits until whoever sat here before has left, and so all who were before him.
    pub async fn alone(&self) {
        self.former.cancelled().await;
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        self.left.cancel();
        let mut seat = self.sessions.seat();
        if seat.number == self.number {
            seat.taken = None;
            self.sessions.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn request(session: &str, preserve_session: bool) -> AttachRequest {
        AttachRequest { session: session.into(), preserve_session, ..AttachRequest::default() }
    }

    #[tokio::test]
    async fn the_newest_wins_unless_it_preserves() {
        let sessions = Sessions::new("VNC");
        let first = sessions.sit(&request("a", true)).unwrap();
        let busy = sessions.sit(&request("b", true)).unwrap_err();
        assert_eq!(busy.to_string(), "Active VNC connection. Request denied.");
        assert!(!first.replaced.is_cancelled());

        let second = sessions.sit(&request("b", false)).unwrap();
        assert!(first.replaced.is_cancelled());
        assert!(second.alone().now_or_never().is_none());
        drop(first);
        second.alone().await;
        assert!(sessions.vacant().now_or_never().is_none() && !second.replaced.is_cancelled());

        let again = sessions.sit(&request("b", true)).unwrap();
        assert!(second.replaced.is_cancelled());
        drop((second, again));
        sessions.vacant().await;
        sessions.sit(&request("c", true)).unwrap();
    }
}
