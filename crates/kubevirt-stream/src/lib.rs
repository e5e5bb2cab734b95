//! Byte streams of consoles and screens: websockets, the launcher's attach protocol, relays
//! between them, and the ring buffer with offsets from which a stream is resumed.
//!
//! It knows nothing of virtual machines, and never decides who may attach.

pub mod attach;
pub mod relay;
pub mod resend;
pub mod rfb;
pub mod ring;
pub mod websocket;
