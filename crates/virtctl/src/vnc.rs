//! `vnc`: the screen of an instance, for a viewer on this machine, or a picture of it.

mod screenshot;
mod viewer;

use std::net::SocketAddr;
use std::time::Duration;

use kubevirt_stream::relay::{RelayEnd, relay};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::{ScreenOptions, VncCommand, VncOptions};
use crate::cluster::Cluster;
use crate::stream::{OpenError, open};
use crate::terminal::say;

/// A viewer that hasn't connected by then never will.
const VIEWER_LIMIT: Duration = Duration::from_secs(60);
/// A close frame that says that all is well.
const NORMAL: u16 = 1000;

/// A screen that can't be opened, or was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VncError {
    #[error("Can't access VMI {name}: {source}")]
    Open { name: String, source: OpenError },
    #[error("can't listen on {address}:{port}")]
    Listen { address: String, port: u16, source: std::io::Error },
    #[error("no VNC viewer found in PATH (looked for {looked_for}): use --proxy-only, or --vnc-path")]
    NoViewer { looked_for: String },
    #[error("can't start {program}")]
    Viewer { program: String, source: std::io::Error },
    #[error("the viewer did not connect within {} seconds", VIEWER_LIMIT.as_secs())]
    NoConnection,
    #[error("the viewer ended without connecting ({0})")]
    ViewerEnded(std::process::ExitStatus),
    #[error("can't accept the viewer's connection")]
    Accept(#[source] std::io::Error),
    #[error("error encountered: {0}")]
    Cut(String),
    #[error(transparent)]
    Screenshot(#[from] screenshot::ScreenshotError),
    #[error("name the virtual machine instance whose screen to open")]
    NoName,
}

pub(crate) async fn run(cluster: &Cluster, options: &VncOptions) -> Result<(), VncError> {
    match (&options.command, &options.screen) {
        (Some(VncCommand::Screenshot(options)), _) => Ok(screenshot::take(cluster, options).await?),
        (None, Some(options)) => open_screen(cluster, options).await,
        (None, None) => Err(VncError::NoName),
    }
}

async fn open_screen(cluster: &Cluster, options: &ScreenOptions) -> Result<(), VncError> {
    // The viewer is looked for first: without one nobody's session needs to end.
    let viewer = match options.proxy_only {
        true => None,
        false => Some(viewer::find(options.vnc_type, options.vnc_path.as_deref(), viewer::in_path)?),
    };
    let path = format!("vnc?preserveSession={}", options.preserve_session);
    let opened = open(cluster, &options.name, &path)
        .await
        .map_err(|source| VncError::Open { name: options.name.clone(), source })?;
    let listen = async {
        let listener = TcpListener::bind((options.address.as_str(), options.port)).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = listen.await.map_err(|source| VncError::Listen {
        address: options.address.clone(),
        port: options.port,
        source,
    })?;
    let client = match viewer {
        None => {
            say(&format!("{{\"port\":{}}}", address.port()));
            accept(&listener).await?
        }
        Some(viewer) => accept_viewer(&listener, &viewer, address).await?,
    };
    // One viewer, one session: who comes second finds the door closed.
    drop(listener);
    outcome(relay(opened.websocket, client, &CancellationToken::new()).await)
}

async fn accept(listener: &TcpListener) -> Result<TcpStream, VncError> {
    listener.accept().await.map(|(stream, _)| stream).map_err(VncError::Accept)
}

async fn accept_viewer(
    listener: &TcpListener,
    viewer: &viewer::Viewer,
    address: SocketAddr,
) -> Result<TcpStream, VncError> {
    let mut child: Child = Command::new(&viewer.program)
        .args(viewer.arguments(address))
        .spawn()
        .map_err(|source| VncError::Viewer { program: viewer.program.display().to_string(), source })?;
    tokio::select! {
        accepted = timeout(VIEWER_LIMIT, accept(listener)) => accepted.map_err(|_| VncError::NoConnection)?,
        Ok(status) = child.wait() => Err(VncError::ViewerEnded(status)),
    }
}

fn outcome(end: RelayEnd) -> Result<(), VncError> {
    match end {
        RelayEnd::StreamEnded | RelayEnd::Stopped => Ok(()),
        RelayEnd::PeerClosed(close) if close.code == NORMAL => Ok(()),
        RelayEnd::PeerClosed(close) => {
            Err(VncError::Cut(format!("websocket: close {} {}", close.code, close.reason).trim().to_owned()))
        }
        RelayEnd::PeerLost(error) => {
            Err(VncError::Cut(format!("websocket: close 1006 (abnormal closure): {error}")))
        }
        RelayEnd::StreamFailed(error) => Err(VncError::Cut(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_stream::relay::Close;

    #[test]
    fn ends_are_good_or_have_a_cause() {
        assert!(outcome(RelayEnd::StreamEnded).is_ok());
        assert!(outcome(RelayEnd::PeerClosed(Close::normal())).is_ok());
        let error = outcome(RelayEnd::PeerClosed(Close::internal_error("gone"))).unwrap_err();
        assert_eq!(error.to_string(), "error encountered: websocket: close 1011 gone");
    }
}
