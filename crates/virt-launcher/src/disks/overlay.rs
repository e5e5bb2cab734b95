//! The file that takes what a guest writes to a disk whose image can't be written.
//!
//! qemu-img makes it and never sees the image: QEMU is told which one is below it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;
use tokio::io::AsyncReadExt;

use crate::process::{Exit, ProcessError, Processes};

/// An overlay that couldn't be made.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// qemu-img couldn't be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its words couldn't be read.
    #[error("reading what qemu-img says: {0}")]
    Words(io::Error),
    /// It failed.
    #[error("making {}: qemu-img {exit}: {said}", path.display())]
    Failed {
        /// The overlay.
        path: PathBuf,
        /// How it ended.
        exit: Exit,
        /// What it said.
        said: String,
    },
}

/// Makes an empty overlay for a disk of so many bytes.
pub async fn make(
    qemu_img: &Path,
    path: &Path,
    bytes: u64,
    processes: &Processes,
) -> Result<(), OverlayError> {
    let mut command = Command::new(qemu_img);
    command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(bytes.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = processes.spawn(&mut command)?;
    let mut said = String::new();
    child.stderr.read_to_string(&mut said).await.map_err(OverlayError::Words)?;
    match child.exit.await.unwrap_or(Exit::Unknown) {
        Exit::Code(0) => Ok(()),
        exit => Err(OverlayError::Failed { path: path.to_owned(), exit, said: said.trim().to_owned() }),
    }
}
