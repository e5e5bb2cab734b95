//! The launcher's side: takes the open file of a container disk's image.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::image::{self, Image, ImageError};

/// The other container runs before this one does, but may not have come to its socket: for nodes on their knees.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// An image that can't be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Its container doesn't answer.
    #[error("the container with the disk's image doesn't answer at {} within {PATIENCE:?}: {source}", socket.display())]
    Silent {
        /// Where.
        socket: PathBuf,
        /// What happened at last.
        source: io::Error,
    },
    /// Its container says something else.
    #[error("the container at {} gives no file", socket.display())]
    NoFile {
        /// Where.
        socket: PathBuf,
    },
    /// It isn't what was asked for.
    #[error("the file from {} can be written to", socket.display())]
    Writable {
        /// Where.
        socket: PathBuf,
    },
    /// It can't be a guest's disk.
    #[error("the file from {} {source}", socket.display())]
    Image {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: ImageError,
    },
}

/// Takes the image from the container that gives it at `socket`.
pub async fn fetch(socket: &Path) -> Result<(File, Image), FetchError> {
    let socket = socket.to_owned();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let taking = async {
        loop {
            match take(&socket).await {
                Ok(file) => return file,
                // It isn't there yet, or is being started again.
                Err(err) => last = err,
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let Ok(file) = tokio::time::timeout(PATIENCE, taking).await else {
        return Err(FetchError::Silent { socket, source: last });
    };
    let Some(file) = file else { return Err(FetchError::NoFile { socket }) };
    let readable =
        rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY);
    if !readable {
        return Err(FetchError::Writable { socket });
    }
    match image::look(&file) {
        Ok(image) => Ok((file, image)),
        Err(source) => Err(FetchError::Image { socket, source }),
    }
}

async fn take(socket: &Path) -> io::Result<Option<File>> {
    let stream = UnixStream::connect(socket).await?;
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let parts = &mut [IoSliceMut::new(&mut byte)];
            if recvmsg(&stream, parts, &mut message, RecvFlags::CMSG_CLOEXEC)?.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let files = message.drain().filter_map(|part| match part {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            });
            Ok(files.flatten().next().map(File::from))
        })
        .await
}
