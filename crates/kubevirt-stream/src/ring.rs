//! The last bytes of a stream, each with its offset from the stream's beginning.

use std::collections::VecDeque;

/// Bytes that a launcher keeps of each stream: some minutes of a busy serial console.
pub const DEFAULT_CAPACITY: usize = 1024 * 1024;

/// Keeps the newest bytes of a stream. Offsets count from the stream's first byte and never go back.
#[derive(Debug, Clone)]
pub struct RingBuffer {
    bytes: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

impl Default for RingBuffer {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl RingBuffer {
    /// An empty buffer that keeps up to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, end: 0 }
    }

    /// A buffer for a stream whose first bytes were kept elsewhere: the next one to come has this offset.
    pub fn starting_at(offset: u64) -> Self {
        Self { end: offset, ..Self::default() }
    }

    /// Appends what came from the stream; the oldest bytes beyond the capacity go.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// Offset of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Offset of the next byte to come.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where a reader who wants to go on at `offset` really goes on: what is lost is skipped, and what
    /// never was is not waited for.
    pub fn clamp(&self, offset: u64) -> u64 {
        offset.clamp(self.start(), self.end)
    }

    /// Up to `limit` bytes from `offset` on, and the offset behind them. Nothing at the end.
    pub fn read(&self, offset: u64, limit: usize) -> (Vec<u8>, u64) {
        let offset = self.clamp(offset);
        let skip = usize::try_from(offset - self.start()).expect("the distance is at most the capacity");
        let count = limit.min(self.bytes.len() - skip);
        let bytes: Vec<u8> = self.bytes.range(skip..skip + count).copied().collect();
        let next = offset + bytes.len() as u64;
        (bytes, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn behaves_like_a_vec_that_forgets(
            capacity in 0usize..40,
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20),
            offset in 0u64..400,
            limit in 0usize..50,
        ) {
            let mut ring = RingBuffer::new(capacity);
            let mut all = Vec::new();
            for push in &pushes {
                ring.push(push);
                all.extend_from_slice(push);
                let start = all.len().saturating_sub(capacity);
                assert_eq!((ring.start(), ring.end()), (start as u64, all.len() as u64));
                let from = (offset as usize).clamp(start, all.len());
                let to = (from + limit).min(all.len());
                assert_eq!(ring.read(offset, limit), (all[from..to].to_vec(), to as u64));
            }
        }
    }

    #[test]
    fn a_stream_goes_on_where_it_was_kept_before() {
        let mut ring = RingBuffer::starting_at(100);
        ring.push(b"abc");
        assert_eq!((ring.start(), ring.end()), (100, 103));
        assert_eq!(ring.read(0, 2), (b"ab".to_vec(), 102));
    }

    #[test]
    fn reading_on_yields_every_byte_once() {
        let mut ring = RingBuffer::new(8);
        ring.push(b"abcdef");
        let (first, next) = ring.read(0, 4);
        ring.push(b"ghij");
        let (second, end) = ring.read(next, 100);
        assert_eq!((first.as_slice(), second.as_slice(), end), (&b"abcd"[..], &b"efghij"[..], 10));
    }
}
