//! What users have typed and the guest's serial line hasn't taken yet, and how much of it each session has typed.
//!
//! Owns the bytes between the console's connections and QEMU. Bounded: who types ahead of a guest that doesn't read waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;

use crate::counts::Counts;

/// With so many bytes waiting for the guest, connections aren't read.
const AHEAD: usize = 64 * 1024;
/// What a connection held when it ended is taken beyond that, up to this: each holds a few hundred KiB.
const MOST: usize = 1024 * 1024;

/// The bytes on their way to the guest.
#[derive(Debug, Default)]
pub struct Typed {
    state: Mutex<State>,
    /// Wakes who waits for bytes, or for room.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    sessions: Counts,
    /// Nothing is written to the guest.
    held: bool,
}

impl Typed {
    /// A session attaches: [`Counts::begin`].
    pub fn begin(&self, session: &str, was_here: bool) -> Option<u64> {
        self.state().sessions.begin(session, was_here)
    }

    /// Waits until a connection may be read.
    pub async fn room(&self) {
        self.until(|state| state.waiting.len() < AHEAD).await;
    }

    /// Takes bytes of a session. False, and nothing is taken, if there is no place for them at all.
    pub fn take(&self, session: &str, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if state.waiting.len() + bytes.len() > MOST {
            return false;
        }
        state.waiting.extend(bytes);
        state.sessions.add(session, bytes.len());
        drop(state);
        self.changed.send_replace(());
        true
    }

    /// Writes to the guest's serial line until that ends.
    pub async fn write_to(&self, serial: OwnedWriteHalf) {
        loop {
            self.until(|state| !state.held && !state.waiting.is_empty()).await;
            if serial.writable().await.is_err() {
                return;
            }
            // Written and forgotten in one step: nobody sees a byte in two places, or in none.
            let mut state = self.state();
            if state.held {
                continue;
            }
            let written = serial.try_write(state.waiting.as_slices().0);
            match written {
                Ok(count) => drop(state.waiting.drain(..count)),
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            drop(state);
            self.changed.send_replace(());
        }
    }

    /// Writes nothing more to the guest. What was written is, when this returns.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Goes on.
    pub fn release(&self) {
        self.state().held = false;
        self.changed.send_replace(());
    }

    /// Gives all away: `unread` was written to the guest's serial line, and will not be read there. It is kept, too:
    /// whoever gets it may not want it.
    pub fn give(&self, unread: &[u8]) -> (Vec<u8>, Vec<(String, u64)>) {
        let mut state = self.state();
        prepend(&mut state.waiting, unread);
        (state.waiting.iter().copied().collect(), state.sessions.all())
    }

    /// Takes over what another launcher had: it comes before all that is typed here.
    pub fn adopt(&self, waiting: &[u8], sessions: Vec<(String, u64)>) {
        let mut state = self.state();
        prepend(&mut state.waiting, waiting);
        state.sessions.adopt(sessions);
        drop(state);
        self.changed.send_replace(());
    }

    async fn until(&self, what: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        // The sender is our own; it outlives this.
        while !what(&self.state()) && changed.changed().await.is_ok() {}
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepend(waiting: &mut VecDeque<u8>, bytes: &[u8]) {
    let later = std::mem::replace(waiting, bytes.iter().copied().collect());
    waiting.extend(later);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_is_given_away_is_typed_elsewhere_or_here() {
        let here = std::sync::Arc::new(Typed::default());
        let (serial, mut guest) = UnixStream::pair().unwrap();
        let writer = here.clone();
        tokio::spawn(async move { writer.write_to(serial.into_split().1).await });
        here.begin("a", false);
        assert!(here.take("a", b"ab"));
        let mut read = [0; 2];
        guest.read_exact(&mut read).await.unwrap();
        here.hold();
        assert!(here.take("a", b"cd"));
        let (waiting, sessions) = here.give(b"b");
        assert_eq!((waiting.as_slice(), sessions.clone()), (&b"bcd"[..], vec![("a".to_owned(), 4)]));
        assert!(guest.try_read(&mut read).is_err(), "it is held");

        let there = Typed::default();
        there.adopt(&waiting, sessions);
        assert_eq!(there.begin("a", true), Some(4));
        assert_eq!(there.give(b"").0, b"bcd");

        // Nobody has wanted it.
        here.release();
        let mut read = [0; 3];
        guest.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"bcd");
    }

    #[test]
    fn what_has_no_place_is_not_counted() {
        let typed = Typed::default();
        typed.begin("a", false);
        assert!(typed.take("a", &vec![0; MOST]));
        assert!(!typed.take("a", b"x"));
        assert_eq!(typed.begin("a", true), Some(MOST as u64));
    }
}
