//! Unix sockets for gRPC: binding with takeover of the path, serving, dialling.
//!
//! Never speaks: what goes over a socket is the caller's.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::Stream;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// What a unix socket's path may hold: `sun_path` without its end mark.
const PATH_LIMIT: usize = 107;

/// Long enough for a busy node, short enough to be told that a launcher hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket that couldn't be used.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path is longer than the kernel takes.
    #[error("socket path {} is {length} bytes long, at most {PATH_LIMIT} are possible", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// No socket could be made.
    #[error("binding {}: {source}", path.display())]
    Bind {
        /// The path that was bound, before it got its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket couldn't be given its name.
    #[error("naming the new socket {}: {source}", path.display())]
    Rename {
        /// The name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answered.
    #[error("connecting to {}: {}", path.display(), causes(source))]
    Connect {
        /// The path.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Listens at `path`, and takes the path over from whoever had it: the socket is made
/// under another name and renamed, so there is no moment without a listener, and
/// connections that the predecessor has accepted are its own to finish.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let length = fresh.as_os_str().as_bytes().len();
    if length > PATH_LIMIT {
        return Err(SocketError::PathTooLong { path: fresh, length });
    }
    match std::fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(SocketError::Bind { path: fresh, source }),
    }
    let listener =
        UnixListener::bind(&fresh).map_err(|source| SocketError::Bind { path: fresh.clone(), source })?;
    // Whoever may connect is the owner, or root, as virt-handler and the kubelet are.
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600))
        .map_err(|source| SocketError::Bind { path: fresh.clone(), source })?;
    std::fs::rename(&fresh, path).map_err(|source| SocketError::Rename { path: path.to_owned(), source })?;
    Ok(listener)
}

/// The connections of a listener, as `tonic::transport::Server::serve_with_incoming` wants them.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

/// A channel to whoever listens at `path`. It dials again by itself when it has been cut.
pub async fn connect(path: &Path) -> Result<Channel, SocketError> {
    let owned = path.to_owned();
    // The name is only there because HTTP/2 wants one; the connector knows the way.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = owned.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| SocketError::Connect { path: path.to_owned(), source })
}

/// An error with its causes: tonic's own text stops at "transport error".
fn causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hlc-{name}-{}", std::process::id()))
    }

    #[tokio::test]
    async fn a_path_is_taken_over_and_connections_stay() {
        let path = scratch("takeover");
        let old = bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let new = bind(&path).unwrap();
        let mut later = UnixStream::connect(&path).await.unwrap();

        let (mut carried, _) = old.accept().await.unwrap();
        drop(old);
        carried.write_all(b"old").await.unwrap();
        let (mut fresh, _) = new.accept().await.unwrap();
        fresh.write_all(b"new").await.unwrap();
        let mut words = [[0; 3]; 2];
        client.read_exact(&mut words[0]).await.unwrap();
        later.read_exact(&mut words[1]).await.unwrap();
        assert_eq!(words, [*b"old", *b"new"]);
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn refusals_name_the_path_and_the_cause() {
        let long = scratch(&"x".repeat(PATH_LIMIT));
        assert!(matches!(bind(&long), Err(SocketError::PathTooLong { .. })));
        let nowhere = connect(&scratch("nowhere")).await.unwrap_err().to_string();
        assert!(nowhere.contains("hlc-nowhere") && nowhere.contains("No such file"), "{nowhere}");
    }
}
