//! Two websockets, and how carrying data between them ends.

use tokio_tungstenite::tungstenite::Error;

use super::Close;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Towards the person.
    Client,
    /// Towards the virtual machine.
    Server,
}

/// How a leg ended.
#[derive(Debug)]
pub enum LegEnd {
    /// With a close frame.
    Closed(Close),
    /// Without one.
    Lost(Error),
}

/// How carrying ended, with the other left open: who knows how to reach the same stream again may go on with another server.
#[derive(Debug)]
pub enum WebsocketsEnd {
    /// One leg ended; nothing was said to the other.
    Leg(Leg, LegEnd),
    /// We were told to stop; nothing was said to either.
    Stopped,
}
