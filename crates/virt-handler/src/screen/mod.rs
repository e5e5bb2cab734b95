//! A picture of a guest's screen: taken over the launcher's screen socket, which launchers of every release have.
//!
//! It sits beside whoever watches and takes nobody's place. Never keeps a picture.

mod pack;
mod rfb;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kubevirt_stream::attach::{AttachError, AttachRequest, attach};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::launcher::socket::Found;
pub use pack::PngError;
pub use rfb::{Picture, RfbError, grab};

/// What QEMU sends is a few MiB over a socket of this node.
const LIMIT: Duration = Duration::from_secs(7);
/// A picture is held whole, twice: this process has better things to do with its memory.
static AT_A_TIME: Semaphore = Semaphore::const_new(2);

/// There is no picture.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// The launcher isn't there.
    #[error("can't connect to the launcher: {0}")]
    Connect(std::io::Error),
    /// The launcher's release knows one session only, and somebody has it.
    #[error(
        "somebody has the screen open, and this virtual machine was started by a release in which only one can: \
         close that session first"
    )]
    Taken,
    /// The launcher says no.
    #[error(transparent)]
    Attach(AttachError),
    /// QEMU doesn't send one.
    #[error(transparent)]
    Rfb(#[from] RfbError),
    /// It makes no PNG.
    #[error(transparent)]
    Png(#[from] PngError),
    /// It takes too long.
    #[error("the screen was not sent within {} s", LIMIT.as_secs())]
    Slow,
}

/// Takes a picture of the screen behind a socket, as a PNG. `move_cursor` moves the pointer before, which wakes a
/// guest that has turned its screen off.
pub async fn screenshot(socket: &Found, session: String, move_cursor: bool) -> Result<Vec<u8>, ScreenError> {
    let taken = async {
        let _turn = AT_A_TIME.acquire().await.expect("this semaphore is never closed");
        let mut screen = UnixStream::connect(socket.path()).await.map_err(ScreenError::Connect)?;
        // A launcher that doesn't know of shared sessions must not throw out the one it has.
        let request = AttachRequest { session, resume_from: None, preserve_session: true, shared: true };
        attach(&mut screen, &request).await.map_err(|error| match error {
            AttachError::Refused { reason } if reason.starts_with("Active") => ScreenError::Taken,
            error => ScreenError::Attach(error),
        })?;
        let picture = grab(&mut screen, move_cursor).await?;
        // Packing takes a processor's time, not the network's.
        let packed = tokio::task::spawn_blocking(move || pack::pack(&picture)).await;
        Ok(packed.expect("packing doesn't panic")?)
    };
    tokio::time::timeout(LIMIT, taken).await.unwrap_or(Err(ScreenError::Slow))
}
