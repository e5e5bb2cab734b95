//! A term of leadership, as those who work in it see it: when to stop, and until when they may write.
//!
//! The token alone isn't enough. A process that was stopped (SIGSTOP, a frozen cgroup) for longer than its lease goes on
//! where it stood, and its work may run before the elector's task does and cancels anything. So work asks the clock
//! itself, right before it writes.
//!
//! The clock is CLOCK_MONOTONIC. It goes on while a process or a cgroup is stopped. It stands still while the whole machine
//! is suspended, and in a virtual machine that is paused with its clock: there a term looks as good after as before, until
//! the elector's next renewal is refused, a few seconds later. Against that, and against a stop between the check and the
//! moment when the kernel has the request, only the write's own precondition helps.

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decision::is_valid;

/// A term of leadership. Clones share it.
#[derive(Debug, Clone)]
pub struct Term {
    stop: CancellationToken,
    valid_until: watch::Receiver<Instant>,
}

/// The lease wasn't renewed for too long: another may lead now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no longer leads: the lease was not renewed in time")]
pub struct TermOver;

impl Term {
    /// A term that nobody prolongs.
    pub fn until(valid_until: Instant) -> Self {
        begin(valid_until).1
    }

    /// Cancelled when the work must stop.
    pub fn token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until the work must stop.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Whether a write may be sent now. Also while the work winds down: the lease is renewed until it has.
    pub fn check(&self) -> Result<(), TermOver> {
        // Each term has a channel of its own, so none becomes valid again with the next.
        if is_valid(*self.valid_until.borrow(), Instant::now()) { Ok(()) } else { Err(TermOver) }
    }
}

/// The elector's side of a term: who has it moves the end.
#[derive(Debug)]
pub(super) struct Mandate(watch::Sender<Instant>);

impl Mandate {
    /// The lease was renewed.
    pub(super) fn prolong(&self, valid_until: Instant) {
        self.0.send_replace(valid_until);
    }

    /// Nothing may be written any more.
    pub(super) fn end(&self) {
        self.0.send_replace(Instant::now());
    }
}

/// Both sides of a new term.
pub(super) fn begin(valid_until: Instant) -> (Mandate, Term) {
    let (sender, receiver) = watch::channel(valid_until);
    (Mandate(sender), Term { stop: CancellationToken::new(), valid_until: receiver })
}
