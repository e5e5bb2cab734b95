//! A viewer that knows what it has asked for and takes nothing else. It has its own idea of where messages end.

use flate2::{Decompress, FlushDecompress};

pub(super) struct Viewer {
    heard: Vec<u8>,
    step: usize,
    encodings: Vec<i32>,
    streams: Vec<Decompress>,
    pub(super) rows: Vec<Vec<[u8; 3]>>,
    pub(super) updates: usize,
    /// Takes a message in parts, of raw pixels.
    pub(super) patient: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

impl Viewer {
    pub(super) fn new(encodings: &[i32]) -> Self {
        Self {
            heard: Vec::new(),
            step: 0,
            encodings: encodings.to_vec(),
            streams: (0..4).map(|_| Decompress::new(true)).collect(),
            rows: Vec::new(),
            updates: 0,
            patient: false,
        }
    }

    /// Whether it waits for nothing that has begun.
    pub(super) fn is_between_messages(&self) -> bool {
        self.heard.is_empty()
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.heard.extend(bytes);
        let mut answer = Vec::new();
        loop {
            let heard = std::mem::take(&mut self.heard);
            let taken = match self.step {
                0..3 => self.greet(&heard, &mut answer),
                3 => self.begin(&heard, &mut answer),
                _ => {
                    let taken = self.update(&heard, &mut answer);
                    assert!(taken.is_some() || heard.is_empty() || self.patient, "a part of {heard:?}");
                    taken
                }
            };
            self.heard = heard[taken.unwrap_or(0)..].to_vec();
            if taken.is_none() {
                return answer;
            }
            self.step += usize::from(self.step < 4);
        }
    }

    fn greet(&mut self, heard: &[u8], answer: &mut Vec<u8>) -> Option<usize> {
        let (expected, says): (&[u8], &[u8]) =
            [(&b"RFB 003.008\n"[..], &b"RFB 003.008\n"[..]), (&[1, 1], &[1]), (&[0, 0, 0, 0], &[0])]
                [self.step];
        let said = heard.get(..expected.len())?;
        assert_eq!(said, expected);
        answer.extend(says);
        Some(expected.len())
    }

    fn begin(&mut self, heard: &[u8], answer: &mut Vec<u8>) -> Option<usize> {
        heard.get(..26)?;
        assert_eq!(&heard[20..26], b"\0\0\0\x02vm");
        self.rows = vec![vec![[1; 3]; u16_at(heard, 0)]; u16_at(heard, 2)];
        answer.extend([2, 0, 0, self.encodings.len() as u8]);
        answer.extend(self.encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
        self.request(0, answer);
        Some(26)
    }

    fn request(&self, incremental: u8, answer: &mut Vec<u8>) {
        answer.extend([3, incremental, 0, 0, 0, 0]);
        answer.extend((self.rows[0].len() as u16).to_be_bytes());
        answer.extend((self.rows.len() as u16).to_be_bytes());
    }

    /// An update, if it is whole.
    fn update(&mut self, heard: &[u8], answer: &mut Vec<u8>) -> Option<usize> {
        let header = heard.get(..4)?;
        assert_eq!(header[0], 0, "only updates come: {heard:?}");
        let (mut at, mut picture) = (4, false);
        for _ in 0..u16_at(header, 2) {
            let rectangle = heard.get(at..at + 12)?;
            let [x, y, width, height] = [0, 2, 4, 6].map(|i| u16_at(rectangle, i));
            let encoding = i32::from_be_bytes(rectangle[8..].try_into().unwrap());
            assert!(self.encodings.contains(&encoding) || encoding == 0, "{encoding} was not asked for");
            at += 12;
            match encoding {
                -258 => {}
                -223 => self.rows = vec![vec![[1; 3]; width]; height],
                0 => {
                    assert_eq!((x, height), (0, 1));
                    let row = heard.get(at..at + width * 4)?;
                    self.rows[y] = row.chunks(4).map(|p| [p[2], p[1], p[0]]).collect();
                    (at, picture) = (at + width * 4, true);
                }
                7 => {
                    at += self.tight(y, width, &heard[at..]);
                    picture = true;
                }
                other => panic!("encoding {other}"),
            }
        }
        if picture {
            self.updates += 1;
            self.request(1, answer);
        }
        Some(at)
    }

    fn tight(&mut self, y: usize, width: usize, bytes: &[u8]) -> usize {
        for (n, stream) in self.streams.iter_mut().enumerate() {
            if bytes[0] >> n & 1 == 1 {
                *stream = Decompress::new(true);
            }
        }
        if bytes[0] >> 4 == 8 {
            self.rows[y] = vec![[bytes[1], bytes[2], bytes[3]]; width];
            return 4;
        }
        let length = usize::from(bytes[1] & 0x7F) | usize::from(bytes[2]) << 7;
        let mut row = Vec::with_capacity(width * 3 + 1);
        let stream = &mut self.streams[usize::from(bytes[0] >> 4)];
        stream.decompress_vec(&bytes[3..3 + length], &mut row, FlushDecompress::Sync).unwrap();
        assert_eq!(row.len(), width * 3);
        self.rows[y] = row.chunks(3).map(|p| [p[0], p[1], p[2]]).collect();
        3 + length
    }
}
