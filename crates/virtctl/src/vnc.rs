//! `vnc`: the screen of an instance, for a viewer on this machine, or a picture of it.
//!
//! A connection that is cut on its way is opened again behind the viewer, which sees a full picture; the user sees a line about it.

mod screenshot;
mod servers;
#[cfg(test)]
mod tests;
mod viewer;

use std::net::SocketAddr;
use std::time::Duration;

use kubevirt_stream::relay::{LegEnd, ScreenEnd, carry_screen, viewer as viewer_of};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::{ScreenOptions, VncCommand, VncOptions};
use crate::cluster::Cluster;
use crate::stream::{OpenError, Opened};
use crate::terminal::say;
use servers::{Session, cause, server};

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
    let session = Session::new(cluster, &options.name);
    let opened = session
        .open(options.preserve_session)
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
    view(session, opened, client).await
}

/// Serves a viewer until it goes, or its screen does.
async fn view<T>(mut session: Session<'_>, opened: Opened, client: T) -> Result<(), VncError>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let stop = CancellationToken::new();
    outcome(carry_screen(viewer_of(client), server(opened), &mut session, &stop).await)
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

fn outcome(end: ScreenEnd) -> Result<(), VncError> {
    match end {
        ScreenEnd::Viewer(_) | ScreenEnd::Stopped => Ok(()),
        ScreenEnd::Told(close) if close.code == NORMAL => Ok(()),
        ScreenEnd::Told(close) => Err(VncError::Cut(cause(&LegEnd::Closed(close)))),
    }
}
