//! Where a launcher's sockets are, and opening them without being led astray.
//!
//! The directory is a launcher pod's own, and this process is root: a name in it is only
//! used when it is a socket, never when it is a link to somewhere else.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

/// The launcher's gRPC socket.
pub const LAUNCHER: &str = "launcher-sock";
/// The guest's serial console.
pub const CONSOLE: &str = "console-sock";
/// The guest's screen.
pub const VNC: &str = "vnc-sock";

/// A socket that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It isn't there, or can't be opened.
    #[error("can't open {}: {source}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        #[allow(missing_docs)]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
}

/// A socket that was found, held so that its name can't be given to something else.
#[derive(Debug, Clone)]
pub struct Found {
    inode: Arc<OwnedFd>,
}

impl Found {
    /// A path that leads to this very socket as long as this value lives. It is short, too.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.inode.as_raw_fd()))
    }
}

/// The directory of a launcher pod's sockets.
pub fn directory(pods: &Path, pod_uid: &str) -> PathBuf {
    pods.join(pod_uid).join("volumes/kubernetes.io~empty-dir/sockets")
}

/// Finds a socket of a launcher pod.
pub fn find(pods: &Path, pod_uid: &str, name: &str) -> Result<Found, SocketError> {
    let path = directory(pods, pod_uid).join(name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |source: rustix::io::Errno| SocketError::Open { path: path.clone(), source: source.into() };
    let inode = rustix::fs::open(&path, flags, Mode::empty()).map_err(open)?;
    let stat = rustix::fs::fstat(&inode).map_err(open)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketError::NotASocket { path });
    }
    Ok(Found { inode: Arc::new(inode) })
}

/// The uids of all pods on this node that have a launcher's socket.
pub fn scan(pods: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(pods) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|uid| find(pods, uid, LAUNCHER).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn only_sockets_are_found_and_never_through_links() {
        let pods = std::env::temp_dir().join(format!("virt-handler-sockets-{}", std::process::id()));
        let secret = pods.join("secret");
        for uid in ["good", "link", "file"] {
            std::fs::create_dir_all(directory(&pods, uid)).unwrap();
        }
        let _secret = UnixListener::bind(&secret).unwrap();
        let _good = UnixListener::bind(directory(&pods, "good").join(LAUNCHER)).unwrap();
        std::os::unix::fs::symlink(&secret, directory(&pods, "link").join(LAUNCHER)).unwrap();
        std::fs::write(directory(&pods, "file").join(LAUNCHER), "").unwrap();
        assert_eq!(scan(&pods), ["good"]);
        assert!(matches!(find(&pods, "link", LAUNCHER), Err(SocketError::NotASocket { .. })));
        let found = find(&pods, "good", LAUNCHER).unwrap();
        UnixStream::connect(found.path()).unwrap();
        std::fs::remove_dir_all(pods).unwrap();
    }
}
