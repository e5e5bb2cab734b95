//! What a pixel looks like on the wire.

use super::{Unfollowed, u16_at};

/// A pixel format as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelFormat(pub(super) [u8; 16]);

/// How many bytes a pixel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) pixel: u64,
    /// In Tight, which leaves the fourth byte out where it says nothing.
    pub(super) tight: u64,
}

impl PixelFormat {
    /// The first 16 bytes.
    pub(super) fn at(bytes: &[u8]) -> Self {
        let mut format = [0; 16];
        format.copy_from_slice(&bytes[..16]);
        Self(format)
    }

    /// As QEMU reads it: without true colour a pixel is a byte, a highest value of 0 means 255, and the depth
    /// means nothing.
    pub(super) fn layout(self) -> Result<Layout, Unfollowed> {
        let pixel = match (self.0[3], self.0[0]) {
            (0, _) | (_, 8) => 1,
            (_, 16) => 2,
            (_, 32) => 4,
            (_, bits) => return Err(Unfollowed::Pixels(bits)),
        };
        let bytes = [4, 6, 8].iter().all(|&at| matches!(u16_at(&self.0, at), 0 | 255));
        Ok(Layout { pixel, tight: if pixel == 4 && bytes { 3 } else { pixel } })
    }
}
