//! A viewer that decodes what QEMU sends, by its own idea of RFB: what isn't well formed is a panic.

use flate2::{Decompress, FlushDecompress};

type Pixel = [u8; 3];

pub struct Viewer {
    heard: Vec<u8>,
    step: usize,
    encodings: Vec<i32>,
    streams: Vec<Decompress>,
    width: usize,
    height: usize,
    /// Row by row; empty until the first update.
    pub picture: Vec<Pixel>,
}

/// Reads on, and knows when there is no more.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        assert!(self.0.len() >= count, "a part of a message");
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> usize {
        self.take(1)[0].into()
    }

    fn u16(&mut self) -> usize {
        let bytes = self.take(2);
        u16::from_be_bytes([bytes[0], bytes[1]]).into()
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    /// As QEMU's own format has it: blue, green, red, nothing.
    fn pixel(&mut self) -> Pixel {
        let bytes = self.take(4);
        [bytes[2], bytes[1], bytes[0]]
    }

    fn compact(&mut self) -> usize {
        let first = self.u8();
        if first < 0x80 {
            return first;
        }
        let second = self.u8();
        if second < 0x80 {
            return first & 0x7F | second << 7;
        }
        first & 0x7F | (second & 0x7F) << 7 | self.u8() << 14
    }
}

fn pixels(bytes: &[u8]) -> Vec<Pixel> {
    bytes.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect()
}

impl Viewer {
    pub fn new(encodings: Vec<i32>) -> Self {
        Self {
            heard: Vec::new(),
            step: 0,
            encodings,
            streams: (0..4).map(|_| Decompress::new(true)).collect(),
            width: 0,
            height: 0,
            picture: Vec::new(),
        }
    }

    pub fn is_between_messages(&self) -> bool {
        self.heard.is_empty()
    }

    pub fn colours(&self) -> usize {
        self.picture.iter().collect::<std::collections::HashSet<_>>().len()
    }

    pub fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.heard.extend(bytes);
        let mut answer = Vec::new();
        let shakes: [(usize, &[u8]); 3] = [(12, b"RFB 003.008\n"), (2, &[1]), (4, &[0])];
        while let Some((length, says)) = shakes.get(self.step) {
            if self.heard.len() < *length {
                return answer;
            }
            self.heard.drain(..*length);
            answer.extend(*says);
            self.step += 1;
        }
        if self.step == 3 {
            let Some(name) = self.heard.get(20..24) else { return answer };
            let length = 24 + u32::from_be_bytes(name.try_into().unwrap()) as usize;
            if self.heard.len() < length {
                return answer;
            }
            let init: Vec<u8> = self.heard.drain(..length).collect();
            (self.width, self.height) = (Reader(&init).u16(), Reader(&init[2..]).u16());
            answer.extend([2, 0, 0, self.encodings.len() as u8]);
            answer.extend(self.encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
            self.request(0, &mut answer);
            self.step = 4;
        }
        // Long messages come in chunks, each but the last of 64 KiB.
        if bytes.len() == 64 * 1024 {
            return answer;
        }
        let heard = std::mem::take(&mut self.heard);
        let mut reader = Reader(&heard);
        while !reader.0.is_empty() {
            self.message(&mut reader, &mut answer);
        }
        answer
    }

    fn request(&self, incremental: u8, answer: &mut Vec<u8>) {
        answer.extend([3, incremental, 0, 0, 0, 0]);
        answer.extend((self.width as u16).to_be_bytes());
        answer.extend((self.height as u16).to_be_bytes());
    }

    fn message(&mut self, reader: &mut Reader<'_>, answer: &mut Vec<u8>) {
        match reader.u8() {
            0 => {}
            2 => return,
            other => panic!("a message of type {other}"),
        }
        reader.u8();
        let mut shown = false;
        for _ in 0..reader.u16() {
            shown |= self.rectangle(reader);
        }
        if shown {
            self.request(1, answer);
        }
    }

    /// Whether it is a part of the picture.
    fn rectangle(&mut self, reader: &mut Reader<'_>) -> bool {
        let [x, y, width, height] = [(); 4].map(|()| reader.u16());
        let encoding = reader.i32();
        assert!(encoding == 0 || self.encodings.contains(&encoding), "{encoding} was not asked for");
        let rows = match encoding {
            0 => (0..width * height).map(|_| reader.pixel()).collect(),
            5 => hextile(width, height, reader),
            7 => self.tight(width, height, reader),
            -223 => {
                (self.width, self.height) = (width, height);
                self.picture.clear();
                return false;
            }
            -239 => {
                reader.take(width * height * 4 + width.div_ceil(8) * height);
                return false;
            }
            -257 | -258 => return false,
            -261 => {
                reader.take(1);
                return false;
            }
            0x574D_5669 => {
                reader.take(16);
                return false;
            }
            other => panic!("encoding {other}"),
        };
        assert!(x + width <= self.width && y + height <= self.height, "beside the screen");
        self.picture.resize(self.width * self.height, [9; 3]);
        for (row, line) in rows.chunks(width).enumerate() {
            let start = (y + row) * self.width + x;
            self.picture[start..start + width].copy_from_slice(line);
        }
        true
    }

    fn tight(&mut self, width: usize, height: usize, reader: &mut Reader<'_>) -> Vec<Pixel> {
        let control = reader.u8();
        for (n, stream) in self.streams.iter_mut().enumerate() {
            if control >> n & 1 == 1 {
                *stream = Decompress::new(true);
            }
        }
        let filter = match control >> 4 {
            8 => return vec![pixels(reader.take(3))[0]; width * height],
            4..=7 => reader.u8(),
            0..=3 => 0,
            other => panic!("Tight's kind {other}"),
        };
        let stream = control >> 4 & 3;
        if filter == 0 {
            return pixels(&self.unpack(stream, width * height * 3, reader));
        }
        assert_eq!(filter, 1, "QEMU filters nothing else without losses");
        let count = reader.u8() + 1;
        let palette = pixels(reader.take(count * 3));
        if count > 2 {
            let indices = self.unpack(stream, width * height, reader);
            return indices.iter().map(|&index| palette[usize::from(index)]).collect();
        }
        let in_row = width.div_ceil(8);
        let bits = self.unpack(stream, in_row * height, reader);
        let bit = |x: usize, y: usize| bits[y * in_row + x / 8] >> (7 - x % 8) & 1;
        (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| palette[usize::from(bit(x, y))])
            .collect()
    }

    fn unpack(&mut self, stream: usize, length: usize, reader: &mut Reader<'_>) -> Vec<u8> {
        if length < 12 {
            return reader.take(length).to_vec();
        }
        let packed = reader.compact();
        let packed = reader.take(packed);
        let mut bytes = Vec::with_capacity(length + 64);
        self.streams[stream].decompress_vec(packed, &mut bytes, FlushDecompress::Sync).unwrap();
        assert_eq!(bytes.len(), length);
        bytes
    }
}

fn hextile(width: usize, height: usize, reader: &mut Reader<'_>) -> Vec<Pixel> {
    let mut rows = vec![[0; 3]; width * height];
    let (mut background, mut foreground) = ([0; 3], [0; 3]);
    for top in (0..height).step_by(16) {
        for left in (0..width).step_by(16) {
            let (w, h) = (16.min(width - left), 16.min(height - top));
            let mut fill = |x: usize, y: usize, w: usize, h: usize, colour: Pixel| {
                for row in y..y + h {
                    rows[(top + row) * width + left + x..][..w].fill(colour);
                }
            };
            let kind = reader.u8();
            if kind & 1 != 0 {
                for y in 0..h {
                    for x in 0..w {
                        fill(x, y, 1, 1, reader.pixel());
                    }
                }
                continue;
            }
            if kind & 2 != 0 {
                background = reader.pixel();
            }
            if kind & 4 != 0 {
                foreground = reader.pixel();
            }
            fill(0, 0, w, h, background);
            let count = if kind & 8 != 0 { reader.u8() } else { 0 };
            for _ in 0..count {
                let colour = if kind & 16 != 0 { reader.pixel() } else { foreground };
                let (place, size) = (reader.u8(), reader.u8());
                fill(place >> 4, place & 15, (size >> 4) + 1, (size & 15) + 1, colour);
            }
        }
    }
    rows
}
