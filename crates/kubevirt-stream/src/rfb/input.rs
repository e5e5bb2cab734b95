//! What a viewer does to the guest: what is known to be taken, and what has to be said again to a new server.
//!
//! QEMU lifts a session's keys when its connection ends, and forgets which buttons it held. So does, with its keys down, the guest's next
//! QEMU when the guest moves: it ignores the release of a key that it never saw pressed.

use std::collections::VecDeque;

use super::client::{CUT_TEXT, KEY, POINTER, QEMU, QEMU_KEY, SET_DESKTOP_SIZE};
use super::{u16_at, u32_at};

/// What isn't acknowledged by then has been taken: an acknowledgement comes in milliseconds.
const UNACKED_LIMIT: usize = 256 * 1024;
/// Fingers.
const HELD_LIMIT: usize = 32;

/// Inputs of one viewer.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Keys that the viewer holds down, by the message that pressed them.
    held: Vec<Vec<u8>>,
    /// Where the pointer was last, and with which buttons.
    pointer: Option<Vec<u8>>,
    /// Sent, and not known to be taken; each with its number.
    unacked: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
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
    /// A message was sent.
    pub(super) fn sent(&mut self, number: u64, message: Vec<u8>) {
        self.bytes += message.len();
        self.unacked.push_back((number, message));
        while self.bytes > UNACKED_LIMIT
            && let Some((oldest, _)) = self.unacked.front()
        {
            self.acked(*oldest);
        }
    }

    /// All up to this number was taken.
    pub(super) fn acked(&mut self, number: u64) {
        while let Some((_, message)) = self.unacked.pop_front_if(|(sent, _)| *sent <= number) {
            self.bytes -= message.len();
            self.taken(message);
        }
    }

    /// Whether anything isn't acknowledged.
    pub(super) fn is_unacked(&self) -> bool {
        !self.unacked.is_empty()
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

    /// What a new server must be told before the viewer goes on: what is held down, then what may not have been taken.
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
        again.extend(self.unacked.drain(..).map(|(_, message)| message));
        again
    }
}
