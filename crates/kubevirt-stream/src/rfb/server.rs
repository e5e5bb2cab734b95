//! A server's messages, one at a time.

use super::encoding::{DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, LAST_RECT, WMVI};
use super::format::{Layout, PixelFormat};
use super::rectangle::{self, Content, Context, HEADER, Header};
use super::{Unfollowed, i32_at, u16_at, u32_at};

pub(super) const UPDATE: u8 = 0;
const COLOUR_MAP: u8 = 1;
const BELL: u8 = 2;
const CUT_TEXT: u8 = 3;
const END_OF_CONTINUOUS_UPDATES: u8 = 150;
const FENCE: u8 = 248;
const XVP: u8 = 250;
const QEMU: u8 = 255;
/// Says that the number of rectangles isn't known: one of encoding [`LAST_RECT`] ends them.
const UNCOUNTED: u16 = 0xFFFF;
/// A message up to this size is kept until it is whole: a screen of 3840 by 2160 pixels, unpacked.
pub(super) const WHOLE_LIMIT: usize = 32 << 20;

/// What the messages so far have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The screen's size.
    pub(super) size: Option<(u16, u16)>,
    /// The pixel format, which the server has changed.
    pub(super) format: Option<PixelFormat>,
    /// There was something to see: an update request has its answer.
    pub(super) picture: bool,
}

/// What a server has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A message.
    Whole(Vec<u8>, Facts),
    /// A part of a message that is too long to be kept.
    Part(Vec<u8>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Between two messages.
    Idle,
    /// In an update: before a rectangle. None of how many are left where nobody knows.
    Rectangles(Option<u16>),
    /// In a rectangle; how many follow it.
    Content(Header, Content, Option<u16>),
    /// In another message.
    Skip(u64),
}

/// What has come from a server and wasn't given away yet.
#[derive(Debug)]
pub(super) struct ServerMessages {
    bytes: Vec<u8>,
    /// Where the message begins that isn't whole yet.
    start: usize,
    /// How far it is understood.
    at: usize,
    state: State,
    facts: Facts,
    layout: Layout,
    reset: bool,
    limit: usize,
    /// A part of the message was given away.
    parted: bool,
}

impl ServerMessages {
    /// Of a connection that begins. `reset` where the viewer has had another before.
    pub(super) fn new(layout: Layout, reset: bool, limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            at: 0,
            state: State::Idle,
            facts: Facts::default(),
            layout,
            reset,
            limit,
            parted: false,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// From the next rectangle on.
    pub(super) fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// Whether the bytes may be given to the viewer as they are: its zlib streams are this connection's.
    pub(super) fn is_plain(&self) -> bool {
        !self.reset
    }

    /// Whether the viewer has been given a part of a message.
    pub(super) fn is_parted(&self) -> bool {
        self.parted
    }

    /// All that is kept.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        (self.start, self.at) = (0, 0);
        std::mem::take(&mut self.bytes)
    }

    /// The next message, if it is whole or too long.
    pub(super) fn next(&mut self) -> Result<Option<Said>, Unfollowed> {
        loop {
            if !self.step()? {
                break;
            }
            if matches!(self.state, State::Idle) {
                self.parted = false;
                return Ok(Some(Said::Whole(self.take(), std::mem::take(&mut self.facts))));
            }
        }
        if self.bytes.len() - self.start > self.limit && self.at > self.start {
            self.parted = true;
            return Ok(Some(Said::Part(self.take())));
        }
        Ok(None)
    }

    /// What is understood.
    fn take(&mut self) -> Vec<u8> {
        if self.start == 0 && self.at == self.bytes.len() {
            self.at = 0;
            return std::mem::take(&mut self.bytes);
        }
        let message = self.bytes[self.start..self.at].to_vec();
        self.start = self.at;
        message
    }

    /// Whether there was enough for a step.
    fn step(&mut self) -> Result<bool, Unfollowed> {
        let rest = &mut self.bytes[self.at..];
        match self.state {
            State::Idle => {
                let Some((taken, next)) = message(rest)? else { return Ok(false) };
                self.at += taken;
                self.state = next;
            }
            State::Skip(length) if length <= rest.len() as u64 => {
                self.at += length as usize;
                self.state = State::Idle;
            }
            State::Skip(length) => {
                self.state = State::Skip(length - rest.len() as u64);
                self.at = self.bytes.len();
                return Ok(false);
            }
            State::Rectangles(Some(0)) => self.state = State::Idle,
            State::Rectangles(_) if rest.len() < HEADER => return Ok(false),
            State::Rectangles(left) => {
                let header = Header::parse(rest);
                let content = rectangle::begin(&header, self.layout)?;
                self.at += HEADER;
                self.state = State::Content(header, content, left.map(|left| left - 1));
            }
            State::Content(header, Content::End, left) => {
                self.note(&header);
                let over = header.encoding == LAST_RECT;
                self.state = State::Rectangles(if over { Some(0) } else { left });
            }
            State::Content(header, content, left) => {
                let mut context = Context { header: &header, layout: self.layout, reset: &mut self.reset };
                let Some((taken, next)) = rectangle::step(content, rest, &mut context)? else {
                    return Ok(false);
                };
                self.at += taken;
                self.state = State::Content(header, next, left);
            }
        }
        Ok(true)
    }

    /// What a rectangle that is over has changed.
    fn note(&mut self, header: &Header) {
        match header.encoding {
            DESKTOP_SIZE => self.facts.size = Some((header.width, header.height)),
            // A wish of this viewer (1) that was refused (not 0) changes nothing.
            EXTENDED_DESKTOP_SIZE if header.x == 1 && header.y != 0 => {}
            EXTENDED_DESKTOP_SIZE => self.facts.size = Some((header.width, header.height)),
            WMVI => {
                let format = PixelFormat::at(&self.bytes[self.at - 16..]);
                // A server doesn't choose a format that it hasn't.
                if let Ok(layout) = format.layout() {
                    self.layout = layout;
                    self.facts.format = Some(format);
                }
            }
            _ => self.facts.picture |= header.is_picture(),
        }
    }
}

/// A message's beginning: its length, and what follows. None while that isn't known.
fn message(bytes: &[u8]) -> Result<Option<(usize, State)>, Unfollowed> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let header = match kind {
        UPDATE | XVP | QEMU => 4,
        COLOUR_MAP => 6,
        BELL | END_OF_CONTINUOUS_UPDATES => 1,
        CUT_TEXT => 8,
        FENCE => 9,
        other => return Err(Unfollowed::ServerMessage(other)),
    };
    if bytes.len() < header {
        return Ok(None);
    }
    let state = match kind {
        UPDATE => {
            let count = u16_at(bytes, 2);
            State::Rectangles((count != UNCOUNTED).then_some(count))
        }
        COLOUR_MAP => State::Skip(u64::from(u16_at(bytes, 4)) * 6),
        CUT_TEXT => State::Skip(i32_at(bytes, 4).unsigned_abs().into()),
        FENCE => State::Skip(bytes[8].into()),
        // Sound: 0 ends, 1 begins, 2 is data.
        QEMU if bytes[1] == 1 && u16_at(bytes, 2) == 2 => {
            if bytes.len() < 8 {
                return Ok(None);
            }
            return Ok(Some((8, State::Skip(u32_at(bytes, 4).into()))));
        }
        QEMU if bytes[1] != 1 || u16_at(bytes, 2) > 2 => return Err(Unfollowed::ServerMessage(kind)),
        _ => State::Skip(0),
    };
    Ok(Some((header, state)))
}
