//! A server that behaves like QEMU's, in memory: one connection to a guest's screen.

use flate2::{Compress, Compression, FlushCompress};

use super::messages::TRUE_COLOUR;

/// What a guest shows: the colour of each pixel, row by row, and what was done to it.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) width: u16,
    pub(super) rows: Vec<Vec<[u8; 3]>>,
    pub(super) done: Vec<Vec<u8>>,
}

impl Guest {
    pub(super) fn new(width: u16, height: u16) -> Self {
        Self { width, rows: vec![vec![[0; 3]; width.into()]; height.into()], done: Vec::new() }
    }

    /// Paints every row, each second one in a single colour.
    pub(super) fn paint(&mut self, seed: u8) {
        for (y, row) in self.rows.iter_mut().enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let x = if y % 2 == 0 { 0 } else { x as u8 };
                *pixel = [seed, y as u8, x ^ seed];
            }
        }
    }
}

pub(super) struct Qemu {
    said: Vec<u8>,
    hello: usize,
    joined: bool,
    encodings: Vec<i32>,
    streams: Vec<Compress>,
    /// The rows as this viewer has been sent them; none of what has to be sent anyway.
    known: Option<Vec<Vec<[u8; 3]>>>,
    asked: bool,
    pub(super) heard: Vec<Vec<u8>>,
}

impl Qemu {
    /// With what it says first.
    pub(super) fn accept(guest: &Guest) -> (Self, Vec<u8>) {
        let qemu = Self {
            said: Vec::new(),
            hello: 0,
            joined: false,
            encodings: Vec::new(),
            streams: (0..4).map(|_| Compress::new(Compression::fast(), true)).collect(),
            known: Some(guest.rows.clone()),
            asked: false,
            heard: Vec::new(),
        };
        (qemu, b"RFB 003.008\n".to_vec())
    }

    /// Hears a message, or as much of it as there is, and answers.
    pub(super) fn hear(&mut self, bytes: &[u8], guest: &mut Guest) -> Vec<u8> {
        self.said.extend(bytes);
        let mut answer = Vec::new();
        while let Some(message) = self.message() {
            self.obey(message, guest, &mut answer);
        }
        answer.extend(self.show(guest));
        answer
    }

    fn message(&mut self) -> Option<Vec<u8>> {
        let length = if !self.joined {
            [12, 1, 1][self.hello]
        } else {
            match *self.said.first()? {
                0 => 20,
                2 => 4 + 4 * usize::from(*self.said.get(3)?),
                3 => 10,
                4 => 8,
                5 => 6,
                255 => 12,
                other => panic!("QEMU hangs up on a message of type {other}"),
            }
        };
        (self.said.len() >= length).then(|| self.said.drain(..length).collect())
    }

    fn obey(&mut self, message: Vec<u8>, guest: &mut Guest, answer: &mut Vec<u8>) {
        if !self.joined {
            match self.hello {
                0 => {
                    assert_eq!(message, b"RFB 003.008\n");
                    answer.extend([1, 1]);
                }
                1 => {
                    assert_eq!(message, [1]);
                    answer.extend([0; 4]);
                }
                _ => {
                    answer.extend(guest.width.to_be_bytes());
                    answer.extend((guest.rows.len() as u16).to_be_bytes());
                    answer.extend(TRUE_COLOUR);
                    answer.extend([0, 0, 0, 2]);
                    answer.extend(b"vm");
                    self.joined = true;
                }
            }
            self.hello += 1;
            return;
        }
        match message[0] {
            0 => assert_eq!(message[4..], TRUE_COLOUR),
            2 => {
                let numbers = message[4..].chunks(4);
                self.encodings = numbers.map(|n| i32::from_be_bytes(n.try_into().unwrap())).collect();
                // It knows the extended key event, and says so at once.
                if self.encodings.contains(&-258) {
                    answer.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 9, 0, 9]);
                    answer.extend((-258i32).to_be_bytes());
                }
            }
            3 => {
                self.asked = true;
                if message[1] == 0 {
                    self.known = None;
                }
            }
            _ => guest.done.push(message.clone()),
        }
        self.heard.push(message);
    }

    /// An update, if one was asked for and there is something new.
    pub(super) fn show(&mut self, guest: &Guest) -> Vec<u8> {
        let changed: Vec<usize> = (0..guest.rows.len())
            .filter(|&y| self.known.as_ref().is_none_or(|known| known.get(y) != Some(&guest.rows[y])))
            .collect();
        if !self.asked || changed.is_empty() {
            return Vec::new();
        }
        self.asked = false;
        self.known = Some(guest.rows.clone());
        let mut update = vec![0, 0];
        update.extend((changed.len() as u16).to_be_bytes());
        for y in changed {
            let row = &guest.rows[y];
            for number in [0, y as u16, guest.width, 1] {
                update.extend(number.to_be_bytes());
            }
            if self.encodings.first() != Some(&7) {
                update.extend(0i32.to_be_bytes());
                update.extend(row.iter().flat_map(|[r, g, b]| [*b, *g, *r, 0]));
            } else if row.iter().all(|pixel| *pixel == row[0]) {
                update.extend(7i32.to_be_bytes());
                update.push(0x80);
                update.extend(row[0]);
            } else {
                let packed = self.pack(y % 4, &row.concat());
                update.extend(7i32.to_be_bytes());
                update.push(((y % 4) << 4) as u8);
                assert!(packed.len() < 1 << 14);
                update.push(packed.len() as u8 | 0x80);
                update.push((packed.len() >> 7) as u8);
                update.extend(packed);
            }
        }
        update
    }

    fn pack(&mut self, stream: usize, bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(bytes.len() + 256);
        self.streams[stream].compress_vec(bytes, &mut packed, FlushCompress::Sync).unwrap();
        packed
    }
}
