//! The flock on a file of the node. Never decides who should have it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

/// The lock's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It can't be opened.
    #[error("can't open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        #[allow(missing_docs)]
        source: io::Error,
    },
    /// The kernel refused the lock.
    #[error("can't lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        #[allow(missing_docs)]
        source: io::Error,
    },
}

/// The lock, until it is dropped or the process dies.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

/// Waits for the lock in a thread of its own, so that it is handed over in the moment in which
/// it is given back. When the receiver is dropped first, the lock goes straight back.
pub fn wait(path: &Path) -> oneshot::Receiver<Result<Held, LockError>> {
    let (tell, told) = oneshot::channel();
    let path = path.to_owned();
    std::thread::spawn(move || drop(tell.send(take(&path))));
    told
}

fn take(path: &Path) -> Result<Held, LockError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| LockError::Open { path: path.to_owned(), source })?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Held { _file: file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(LockError::Lock { path: path.to_owned(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn goes_from_hand_to_hand_and_never_to_two() {
        let path = std::env::temp_dir().join(format!("virt-handler-lock-{}", std::process::id()));
        let old = wait(&path).await.unwrap().unwrap();
        let mut new = wait(&path);
        assert!(new.try_recv().is_err(), "the old one holds it");
        let stopped = wait(&path);
        drop(stopped);
        drop(old);
        let new = new.await.unwrap().unwrap();
        drop(new);
        wait(&path).await.unwrap().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn an_impossible_path_is_said() {
        let error = wait(Path::new("/nonexistent/dir/lock")).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "can't open /nonexistent/dir/lock");
    }
}
