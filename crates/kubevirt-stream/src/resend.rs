//! What a sender keeps until it is known to be taken, so that it can send it again behind a connection that was lost.
//!
//! Positions count the bytes of a session from its first, over all its connections. Pure: nothing is sent here.

use std::collections::VecDeque;

/// Bytes that may be on their way: more than a person types, and enough for a paste at some MiB/s.
pub const WINDOW: usize = 256 * 1024;

/// Begins a ping's or a pong's payload that speaks of a position; others only keep a connection alive.
const TAKEN: &str = "taken ";

/// A sender's memory. Bounded by whoever looks at [`Resend::has_room`] before he takes more.
#[derive(Debug, Clone, Default)]
pub struct Resend {
    /// What isn't known to be taken.
    kept: VecDeque<u8>,
    /// Position of the first byte of it.
    start: u64,
    /// Position behind the last byte that was sent on this connection, or an earlier one.
    sent: u64,
    /// A question that isn't answered yet: is all up to here taken?
    asked: Option<u64>,
    /// Whether positions are those that the other end counts. Then another sender of the session has the same.
    counted: bool,
}

impl Resend {
    /// Nothing is kept; the other end has taken `received` bytes of the session before, if it counts.
    pub fn new(received: Option<u64>) -> Self {
        let position = received.unwrap_or(0);
        Self { start: position, sent: position, counted: received.is_some(), ..Self::default() }
    }

    /// Whether more may be taken in.
    pub fn has_room(&self) -> bool {
        self.kept.len() < WINDOW
    }

    /// Whether all that came in is known to be taken.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Position behind the last byte that is known to be taken.
    pub fn taken(&self) -> u64 {
        self.start
    }

    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
    }

    /// Up to `limit` bytes that are to be sent next. They count as sent, whatever becomes of them.
    pub fn next(&mut self, limit: usize) -> Option<Vec<u8>> {
        let from = self.in_flight();
        let count = limit.min(self.kept.len() - from);
        if count == 0 {
            return None;
        }
        self.sent += count as u64;
        Some(self.kept.range(from..from + count).copied().collect())
    }

    /// The position to ask for, if something was sent and nothing is asked.
    pub fn question(&mut self) -> Option<u64> {
        if self.asked.is_some() || self.in_flight() == 0 {
            return None;
        }
        Some(self.ask())
    }

    /// The position to ask for now, whatever was asked before: an answer may be lost behind a later one.
    pub fn ask(&mut self) -> u64 {
        self.asked = Some(self.sent);
        self.sent
    }

    /// All up to this position is taken.
    pub fn acknowledge(&mut self, position: u64) {
        let position = position.clamp(self.start, self.sent);
        self.forget(position);
        if self.asked.is_some_and(|asked| asked <= position) {
            self.asked = None;
        }
    }

    /// A new connection, before which the other end had taken `received` bytes: what it hasn't taken is sent again.
    /// Returns how many bytes are lost, as far as is known: what was sent is never sent again to somebody who can't tell.
    pub fn resume(&mut self, received: Option<u64>) -> u64 {
        self.asked = None;
        let Some(received) = received else {
            let unknown = self.in_flight() as u64;
            self.forget(self.sent);
            self.counted = false;
            return unknown;
        };
        let lost = self.start.saturating_sub(received);
        // Another sender of the session may have brought there what wasn't sent from here yet: it is the same.
        let known = if self.counted { self.start + self.kept.len() as u64 } else { self.sent };
        self.forget(received.clamp(self.start, known));
        // The other end's count is the one that will be asked for again.
        self.start = received;
        self.sent = received;
        self.counted = true;
        lost
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.sent - self.start).expect("what was sent and isn't forgotten is kept")
    }

    /// `position` is between the first byte that is kept and the last.
    fn forget(&mut self, position: u64) {
        let count = usize::try_from(position - self.start).expect("no more is forgotten than is kept");
        self.kept.drain(..count);
        self.start = position;
    }
}

/// A control frame's payload for a position: in a ping a question, in a pong the answer.
pub fn payload(position: u64) -> Vec<u8> {
    format!("{TAKEN}{position}").into_bytes()
}

/// The position in a control frame's payload.
pub fn position(payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.strip_prefix(TAKEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

    #[derive(Debug, Clone)]
    enum Step {
        Type(Vec<u8>),
        Send(usize),
        /// The other end takes some of what is on its way.
        Take(usize),
        /// And answers what was asked.
        Answer,
        /// The connection breaks; the other end still takes some of what was on its way, or all, and then some that another
        /// sender of the session brings there.
        Break(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..20).prop_map(Step::Type),
            (1usize..30).prop_map(Step::Send),
            (0usize..30).prop_map(Step::Take),
            prop_oneof![proptest::strategy::Just(Step::Answer)],
            (0usize..60, prop_oneof![proptest::strategy::Just(0), 0usize..40])
                .prop_map(|(rest, ahead)| Step::Break(rest, ahead)),
        ]
    }

    proptest! {
        #[test]
        fn every_byte_is_taken_once_and_in_order(steps in prop::collection::vec(step(), 0..120), first in 0u64..9) {
            let mut resend = Resend::new(Some(first));
            let (mut typed, mut taken, mut wire) = (Vec::new(), Vec::new(), VecDeque::new());
            let mut asked = None;
            let last = [Step::Break(3, 0), Step::Send(usize::MAX), Step::Take(usize::MAX), Step::Answer];
            for step in steps.into_iter().chain(last) {
                let count = match step { Step::Take(count) | Step::Break(count, _) => count.min(wire.len()), _ => 0 };
                taken.extend(wire.drain(..count));
                if let Step::Break(_, ahead) = step {
                    let from = taken.len();
                    taken.extend_from_slice(&typed[from..typed.len().min(from.saturating_add(ahead))]);
                }
                let position = first + taken.len() as u64;
                match step {
                    Step::Type(bytes) => {
                        typed.extend_from_slice(&bytes);
                        resend.push(&bytes);
                    }
                    Step::Send(limit) => {
                        wire.extend(resend.next(limit).unwrap_or_default());
                        asked = resend.question().or(asked);
                    }
                    Step::Take(_) => {}
                    Step::Answer => if asked.is_some_and(|asked| asked <= position) {
                        resend.acknowledge(asked.take().unwrap());
                    },
                    Step::Break(..) => {
                        wire.clear();
                        asked = None;
                        assert_eq!(resend.resume(Some(position)), 0);
                        assert_eq!(resend.taken(), position);
                    }
                }
                assert!(resend.taken() <= position);
                assert!(typed.starts_with(&taken));
            }
            assert_eq!(taken, typed);
            assert!(resend.is_empty());
        }
    }

    #[test]
    fn what_may_have_been_taken_is_never_sent_twice() {
        let mut resend = Resend::new(None);
        resend.push(b"abcdef");
        assert_eq!(resend.next(4).unwrap(), b"abcd");
        resend.acknowledge(2);
        assert_eq!(resend.resume(None), 2);
        assert_eq!(resend.next(9).unwrap(), b"ef");
        // Less than was known to be taken: its memory was bounded, too.
        resend.acknowledge(6);
        resend.push(b"gh");
        assert_eq!(resend.resume(Some(4)), 2);
        assert_eq!((resend.taken(), resend.next(9).unwrap()), (4, b"gh".to_vec()));
    }

    #[test]
    fn what_another_sender_of_the_session_has_brought_is_not_sent_again() {
        let mut resend = Resend::new(Some(3));
        resend.push(b"abcdef");
        assert_eq!(resend.next(2).unwrap(), b"ab");
        assert_eq!(resend.resume(Some(7)), 0);
        assert_eq!((resend.taken(), resend.next(9).unwrap()), (7, b"ef".to_vec()));
        resend.push(b"g");
        assert_eq!(resend.resume(Some(40)), 0);
        assert_eq!((resend.taken(), resend.next(9)), (40, None));
        // Where the other end didn't count, nobody knows what its count means.
        assert_eq!(resend.resume(None), 0);
        resend.push(b"h");
        assert_eq!(resend.resume(Some(60)), 0);
        assert_eq!((resend.taken(), resend.next(9).unwrap()), (60, b"h".to_vec()));
    }

    #[test]
    fn one_question_at_a_time_and_none_about_nothing() {
        let mut resend = Resend::new(Some(7));
        assert_eq!(resend.question(), None);
        resend.push(&vec![0; WINDOW]);
        assert!(!resend.has_room());
        assert_eq!(resend.question(), None);
        resend.next(5);
        assert_eq!((resend.question(), resend.question()), (Some(12), None));
        resend.next(5);
        assert_eq!(resend.ask(), 17);
        resend.acknowledge(12);
        assert_eq!(resend.question(), None);
        resend.acknowledge(99);
        assert_eq!((resend.taken(), resend.question()), (17, None));
        assert!(resend.has_room());
        assert_eq!(position(&payload(17)), Some(17));
        assert_eq!((position(b"keep alive"), position(b"taken x")), (None, None));
    }
}
