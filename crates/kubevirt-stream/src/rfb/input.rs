//! What a viewer does to the guest: what is known to be taken, and what has to be said again to a new server.
//!
//! Two things tell what is taken. An acknowledgement says that it was given to the launcher. When a server is lost, the launcher says
//! how many bytes QEMU has really taken; that is exact, so what is acknowledged is kept, too, for a while.
//!
//! QEMU lifts a session's keys when its connection ends, and forgets which buttons it held. So does, with its keys down, the guest's next
//! QEMU when the guest moves: it ignores the release of a key that it never saw pressed.

use std::collections::VecDeque;

use super::client::{CUT_TEXT, KEY, POINTER, QEMU, QEMU_KEY, SET_DESKTOP_SIZE};
use super::{u16_at, u32_at};

/// So much is kept. What has been followed by more has been taken: an acknowledgement comes in milliseconds, and a launcher that doesn't
/// give QEMU what it gets (for a second or two of a migration) holds what a socket does, a few hundred KiB.
const KEPT_LIMIT: usize = 256 * 1024;
/// Of what no server acknowledges: it wasn't sent to the one that is there.
const UNSENT: u64 = u64::MAX;
/// Fingers.
const HELD_LIMIT: usize = 32;

/// Inputs of one viewer.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Keys that the viewer holds down, by the message that pressed them.
    held: Vec<Vec<u8>>,
    /// Where the pointer was last, and with which buttons.
    pointer: Option<Vec<u8>>,
    /// Sent, and not known for certain to be taken, in the order of their numbers.
    sent: VecDeque<Sent>,
    bytes: usize,
    /// Up to this number all is acknowledged.
    acked: u64,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    /// Where it ends in what the launcher counts of this session; none if that isn't known.
    end: Option<u64>,
    message: Vec<u8>,
}

/// Whether a message is said again when its server is lost. An order to the machine (xvp) isn't: twice is worse than never.
pub(super) fn is_input(message: &[u8]) -> bool {
    match message[0] {
        KEY | POINTER | CUT_TEXT | SET_DESKTOP_SIZE => true,
        QEMU => message[1] == QEMU_KEY,
        _ => false,
    }
}

/// Which key an event is about, and whether it is pressed.
fn key(message: &[u8]) -> Option<((u32, u32), bool)> {
    match message[0] {
        KEY => Some(((u32_at(message, 4), 0), message[1] != 0)),
        QEMU if message[1] == QEMU_KEY => {
            Some(((u32_at(message, 4), u32_at(message, 8)), u16_at(message, 2) != 0))
        }
        _ => None,
    }
}

/// Shift, Control, Lock keys aside, Meta, Alt, Super, Hyper and AltGr: pressing them twice types nothing.
fn is_modifier(keysym: u32) -> bool {
    matches!(keysym, 0xFFE1..=0xFFE4 | 0xFFE7..=0xFFEE | 0xFE03)
}

/// The release of the key that a message presses.
fn released(press: &[u8]) -> Vec<u8> {
    let mut release = press.to_vec();
    match release[0] {
        KEY => release[1] = 0,
        _ => release[2..4].fill(0),
    }
    release
}

impl Input {
    /// A message was sent. `end` is where it ends in what the launcher counts of this session, if it does.
    pub(super) fn sent(&mut self, number: u64, end: Option<u64>, message: Vec<u8>) {
        self.keep(Sent { number, end, message });
    }

    /// A message will never be sent to the server that is there.
    pub(super) fn unsent(&mut self, message: Vec<u8>) {
        self.keep(Sent { number: UNSENT, end: None, message });
    }

    fn keep(&mut self, sent: Sent) {
        self.bytes += sent.message.len();
        self.sent.push_back(sent);
        while self.bytes > KEPT_LIMIT {
            let oldest = self.sent.pop_front();
            self.forget(oldest);
        }
    }

    /// All up to this number was given to the launcher.
    pub(super) fn acked(&mut self, number: u64) {
        self.acked = self.acked.max(number);
    }

    /// Whether anything isn't acknowledged.
    pub(super) fn is_unacked(&self) -> bool {
        self.sent.back().is_some_and(|last| last.number > self.acked)
    }

    /// A server is there to which nothing of this was sent. The launcher says how many bytes of this session QEMU has taken; if it
    /// says nothing, what is acknowledged is believed to be.
    pub(super) fn received(&mut self, bytes: Option<u64>) {
        let acked = self.acked;
        let is_taken = |sent: &mut Sent| match sent.end.zip(bytes) {
            Some((end, bytes)) => end <= bytes,
            None => sent.number <= acked,
        };
        // Taken in order: where one isn't, none behind it is.
        while let Some(taken) = self.sent.pop_front_if(is_taken) {
            self.forget(Some(taken));
        }
        for sent in &mut self.sent {
            (sent.number, sent.end) = (UNSENT, None);
        }
    }

    fn forget(&mut self, taken: Option<Sent>) {
        if let Some(Sent { message, .. }) = taken {
            self.bytes -= message.len();
            self.taken(message);
        }
    }

    fn taken(&mut self, message: Vec<u8>) {
        if message[0] == POINTER {
            self.pointer = Some(message);
        } else if let Some((which, pressed)) = key(&message) {
            self.held.retain(|held| key(held).is_none_or(|(held, _)| held != which));
            if pressed && self.held.len() < HELD_LIMIT {
                self.held.push(message);
            }
        }
    }

    /// What a new server must be told before the viewer goes on: what is held down, then what was not taken.
    /// `moved` where it is another QEMU, whose guest still has every key down.
    pub(super) fn again(&mut self, moved: bool) -> Vec<Vec<u8>> {
        let mut again = Vec::new();
        for press in &self.held {
            let modifier = key(press).is_some_and(|((keysym, _), _)| is_modifier(keysym));
            if modifier || moved {
                again.push(press.clone());
            }
            if !modifier && moved {
                again.push(released(press));
            }
        }
        // The viewer's release would mean nothing to who never saw the press.
        again.extend(self.pointer.clone().filter(|pointer| pointer[1] != 0));
        // Up again in any QEMU.
        self.held.retain(|press| key(press).is_some_and(|((keysym, _), _)| is_modifier(keysym)));
        self.bytes = 0;
        again.extend(self.sent.drain(..).map(|sent| sent.message));
        again
    }
}
