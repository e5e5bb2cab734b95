//! The guest's screen. QEMU speaks RFB; this carries one session at a time to it.
//!
//! Never looks into RFB: a session that comes back begins with a full frame.

use std::path::PathBuf;
use std::sync::Arc;

use kubevirt_stream::attach::{self, AttachError, AttachReply};
use tokio::net::UnixStream;

use crate::sessions::Sessions;

/// The screen.
#[derive(Debug, Clone)]
pub struct Screen {
    socket: PathBuf,
    sessions: Arc<Sessions>,
}

impl Screen {
    /// The screen behind QEMU's socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, sessions: Sessions::new("VNC") }
    }

    /// Serves one connection to `vnc-sock`.
    pub async fn serve(self, mut stream: UnixStream) -> Result<(), AttachError> {
        let request = attach::accept(&mut stream).await?;
        // QEMU first: a screen that isn't there takes no one's seat.
        let mut qemu = match UnixStream::connect(&self.socket).await {
            Ok(qemu) => qemu,
            Err(err) => {
                tracing::info!(error = %err, "no screen to attach to");
                let error = "the virtual machine has no screen: it isn't running, or \
                             autoattachGraphicsDevice is false"
                    .to_owned();
                return attach::reply(&mut stream, &AttachReply::Refused { error }).await;
            }
        };
        let sitting = match self.sessions.sit(&request) {
            Ok(sitting) => sitting,
            Err(busy) => {
                return attach::reply(&mut stream, &AttachReply::Refused { error: busy.to_string() }).await;
            }
        };
        attach::reply(&mut stream, &AttachReply::Attached { offset: 0, received: None }).await?;
        tracing::info!(session = request.session, "screen attached");
        tokio::select! {
            () = sitting.replaced.cancelled() => {}
            // How it ends doesn't matter: both ends are closed.
            _ = tokio::io::copy_bidirectional(&mut stream, &mut qemu) => {}
        }
        tracing::info!(session = request.session, "screen detached");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kubevirt_stream::attach::AttachRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    async fn attach_as(
        screen: &Screen,
        session: &str,
        preserve: bool,
    ) -> (UnixStream, Result<u64, AttachError>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        tokio::spawn(screen.clone().serve(server));
        let request =
            AttachRequest { session: session.into(), resume_from: None, preserve_session: preserve };
        let answer = attach::attach(&mut client, &request).await;
        (client, answer.map(|attached| attached.offset))
    }

    #[tokio::test]
    async fn sessions_reach_qemu_one_at_a_time() {
        let path = std::env::temp_dir().join(format!("virt-launcher-vnc-{}", std::process::id()));
        let screen = Screen::new(path.clone());
        let (_, refused) = attach_as(&screen, "a", false).await;
        assert!(refused.unwrap_err().to_string().starts_with("the virtual machine has no screen"));

        let qemu = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = qemu.accept().await {
                tokio::spawn(async move {
                    stream.write_all(b"RFB 003.008\n").await.unwrap();
                    // Open until the other side goes.
                    drop(stream.read(&mut [0]).await);
                });
            }
        });
        let mut greeting = [0; 12];
        let (mut first, answer) = attach_as(&screen, "a", false).await;
        answer.unwrap();
        first.read_exact(&mut greeting).await.unwrap();
        let (_, refused) = attach_as(&screen, "b", true).await;
        assert_eq!(refused.unwrap_err().to_string(), "Active VNC connection. Request denied.");

        let (mut second, answer) = attach_as(&screen, "b", false).await;
        answer.unwrap();
        second.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        std::fs::remove_file(&path).unwrap();
    }
}
