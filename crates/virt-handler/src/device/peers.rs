//! The other virt-handler's plugin for the same device, while there are two handlers.
//!
//! A kubelet that loses a plugin writes off the whole resource, even if a newer plugin offers
//! it. So whoever stays holds a connection to the other's socket, which the kernel closes with
//! the other process, and registers again at that moment.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::kind::{DeviceKind, Reason};

/// The other plugins that are being watched.
#[derive(Debug)]
pub struct Peers {
    directory: PathBuf,
    prefix: String,
    own: String,
    watched: BTreeSet<PathBuf>,
    tasks: JoinSet<PathBuf>,
    gone: mpsc::UnboundedSender<Reason>,
}

impl Peers {
    /// Watches the plugins of `kind` in `directory`, except the socket named `own`.
    pub fn new(kind: DeviceKind, directory: &Path, own: &str, gone: mpsc::UnboundedSender<Reason>) -> Self {
        Self {
            directory: directory.to_owned(),
            prefix: kind.socket_prefix(),
            own: own.to_owned(),
            watched: BTreeSet::new(),
            tasks: JoinSet::new(),
            gone,
        }
    }

    /// Watches sockets that are new, and forgets those whose process has gone.
    pub fn look(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(path) = ended {
                self.watched.remove(&path);
            }
        }
        for path in self.others() {
            if self.watched.insert(path.clone()) {
                self.tasks.spawn(watch(path, self.gone.clone()));
            }
        }
    }

    fn others(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(&self.prefix) && name.ends_with(".sock") && name != self.own
            })
            .map(|entry| entry.path())
            .collect()
    }
}

/// Ends when nobody serves `path` any more, removes what is left of it, and tells it.
async fn watch(path: PathBuf, gone: mpsc::UnboundedSender<Reason>) -> PathBuf {
    let seen = match UnixStream::connect(&path).await {
        Ok(mut stream) => {
            let mut sink = [0; 1024];
            while matches!(stream.read(&mut sink).await, Ok(1..)) {}
            // The other's listener may still be there: the kernel cuts a connection with its
            // process, but a server may also have had enough of a silent client.
            if UnixStream::connect(&path).await.is_ok() {
                return path;
            }
            true
        }
        // It came and went between two looks, or its process was only half gone when the connection
        // was cut: what it left is the only sign, and the kubelet may have known it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => false,
        Err(_) => return path,
    };
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "can't remove a dead plugin's socket");
        // It is found dead at every look from now on, and isn't told each time.
        if !seen {
            return path;
        }
    }
    // Nobody listens any more when the process stops; then it doesn't matter.
    drop(gone.send(Reason::PeerGone(path.clone())));
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::kind::KVM;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_peer_that_dies_is_told_and_cleaned_up() {
        let dir = std::env::temp_dir().join(format!("virt-handler-peers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(KVM.socket_name("old"));
        let listener = UnixListener::bind(&path).unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut peers = Peers::new(KVM, &dir, &KVM.socket_name("me"), tell);
        peers.look();
        let (connection, _) = listener.accept().await.unwrap();
        assert!(told.try_recv().is_err());
        drop(listener);
        drop(connection);
        assert_eq!(told.recv().await, Some(Reason::PeerGone(path.clone())));
        while path.exists() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_came_and_went_unseen_is_told_too() {
        let dir = std::env::temp_dir().join(format!("virt-handler-unseen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(KVM.socket_name("crashed"));
        drop(UnixListener::bind(&path).unwrap());
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut peers = Peers::new(KVM, &dir, &KVM.socket_name("me"), tell);
        peers.look();
        assert_eq!(told.recv().await, Some(Reason::PeerGone(path.clone())));
        while path.exists() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
