//! Websocket handshakes with KubeVirt's subprotocol, for servers behind hyper and for clients over any stream.
//!
//! Bytes that arrive together with the upgrade response belong to the websocket: hyper hands them
//! over with the connection.

mod client;
mod server;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use client::{DialError, Handshake, dial};
pub use server::{NotAWebsocket, Upgrade};

/// The subprotocol of consoles, screens and forwarded ports: bytes in binary frames, nothing else.
pub const PLAIN: &str = "plain.kubevirt.io";

/// An upgraded HTTP connection.
pub type Connection = TokioIo<Upgraded>;
/// A websocket over it.
pub type WebSocket = WebSocketStream<Connection>;

/// Peers write what they read at once, at most some ten KiB; more than a MiB in one message is no console.
const MESSAGE_LIMIT: usize = 1024 * 1024;

/// Sizes that bound what one websocket holds in memory.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(32 * 1024)
        .max_write_buffer_size(2 * MESSAGE_LIMIT)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT))
}

#[cfg(test)]
mod tests;
