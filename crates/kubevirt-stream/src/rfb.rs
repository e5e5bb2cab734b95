//! RFB, the protocol of VNC: as much of it as it takes to move a viewer's open connection from one server to another.
//!
//! [`Splice`] stands between a viewer and a server: it knows where a message ends, what the viewer has chosen, and
//! what has to be said to a new server so that the viewer sees nothing but a full picture. Bytes in, bytes out: no I/O
//! here, no clock, and it never looks at a pixel. Written after RFC 6143, the community's rfbproto document and what
//! QEMU's server does.

mod client;
mod encoding;
mod format;
mod handshake;
mod input;
mod rectangle;
mod server;
mod splice;
#[cfg(test)]
mod tests;

pub use splice::{Failure, Splice};

/// Why a stream can't be followed any further. It is carried on unchanged, but not to another server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfollowed {
    /// The viewer says what no server of ours knows.
    #[error("the viewer sends a message of type {0}")]
    ClientMessage(u8),
    /// The viewer sends a text that QEMU doesn't take.
    #[error("the viewer sends a clipboard of {0} bytes")]
    Clipboard(u32),
    /// The viewer wants pixels that QEMU doesn't have.
    #[error("the viewer wants {0} bits per pixel")]
    Pixels(u8),
    /// The viewer changes the size of a pixel while pixels are on their way.
    #[error("the viewer changes its pixel format before it has what it asked for")]
    FormatInFlight,
    /// The server says what we never heard of.
    #[error("the server sends a message of type {0}")]
    ServerMessage(u8),
    /// The server sends what nobody asked for.
    #[error("the server sends a rectangle of encoding {0}")]
    Encoding(i32),
    /// The server packs pixels as nobody does.
    #[error("the server sends a Tight rectangle with control byte {0:#04x}")]
    Tight(u8),
}

/// Two bytes, as all numbers of RFB: the highest first.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Four bytes with a sign.
fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
