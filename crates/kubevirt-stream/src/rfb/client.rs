//! A viewer's messages, one at a time. Their length stands in their first bytes, whatever was agreed before.

use super::{Unfollowed, i32_at, u16_at};

pub(super) const SET_PIXEL_FORMAT: u8 = 0;
const FIX_COLOUR_MAP: u8 = 1;
pub(super) const SET_ENCODINGS: u8 = 2;
pub(super) const UPDATE_REQUEST: u8 = 3;
pub(super) const KEY: u8 = 4;
pub(super) const POINTER: u8 = 5;
pub(super) const CUT_TEXT: u8 = 6;
const CONTINUOUS_UPDATES: u8 = 150;
const FENCE: u8 = 248;
const XVP: u8 = 250;
pub(super) const SET_DESKTOP_SIZE: u8 = 251;
pub(super) const QEMU: u8 = 255;
/// Kinds of a QEMU message, its second byte.
pub(super) const QEMU_KEY: u8 = 0;
pub(super) const QEMU_AUDIO: u8 = 1;
/// What QEMU takes as a clipboard; it hangs up on more.
const CLIPBOARD_LIMIT: u32 = 1 << 20;

/// What has come from a viewer and wasn't taken yet.
#[derive(Debug, Default)]
pub(super) struct ClientMessages {
    bytes: Vec<u8>,
    start: usize,
}

impl ClientMessages {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The next message, if it is whole.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Unfollowed> {
        let rest = &self.bytes[self.start..];
        match length(rest)? {
            Some(length) if length <= rest.len() => {
                let message = rest[..length].to_vec();
                self.start += length;
                Ok(Some(message))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// All that is kept, as it came.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        std::mem::take(&mut self.bytes)
    }
}

/// How long the message is that begins here; none while that isn't known.
fn length(bytes: &[u8]) -> Result<Option<usize>, Unfollowed> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let behind =
        |header: usize, more: fn(&[u8]) -> usize| (bytes.len() >= header).then(|| header + more(bytes));
    Ok(match kind {
        SET_PIXEL_FORMAT => Some(20),
        FIX_COLOUR_MAP => behind(6, |bytes| usize::from(u16_at(bytes, 4)) * 6),
        SET_ENCODINGS => behind(4, |bytes| usize::from(u16_at(bytes, 2)) * 4),
        UPDATE_REQUEST | CONTINUOUS_UPDATES => Some(10),
        KEY => Some(8),
        POINTER => Some(6),
        CUT_TEXT => {
            if bytes.len() < 8 {
                return Ok(None);
            }
            // Negative for the extended clipboard.
            let text = i32_at(bytes, 4).unsigned_abs();
            if text > CLIPBOARD_LIMIT {
                return Err(Unfollowed::Clipboard(text));
            }
            behind(8, |bytes| i32_at(bytes, 4).unsigned_abs() as usize)
        }
        FENCE => behind(9, |bytes| usize::from(bytes[8])),
        XVP => Some(4),
        SET_DESKTOP_SIZE => behind(8, |bytes| usize::from(bytes[6]) * 16),
        QEMU => match bytes.get(1) {
            None => None,
            Some(&QEMU_KEY) => Some(12),
            Some(&QEMU_AUDIO) => behind(4, |bytes| if u16_at(bytes, 2) == 2 { 6 } else { 0 }),
            Some(_) => return Err(Unfollowed::ClientMessage(kind)),
        },
        _ => return Err(Unfollowed::ClientMessage(kind)),
    })
}
