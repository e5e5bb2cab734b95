//! The side of the user's image: opens the disk's image, and gives it to whoever connects.
//!
//! Runs in images that may hold nothing else, so it uses nothing but the system calls.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handler_launcher_com::socket::{self, SocketError};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use super::image::{self, ImageError};
use crate::args::ContainerDiskArgs;

/// Where the image's only file is the disk's image: KubeVirt's convention.
const DIRECTORY: &str = "/disk";

/// A disk's image that can't be given.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The image doesn't hold it.
    #[error("the image has no file {}: check containerDisk.path", path.display())]
    Missing {
        /// Path in the image.
        path: PathBuf,
    },
    /// There is nothing where it is looked for.
    #[error("the image has no file in {}: put the disk's image there, or name it in containerDisk.path", directory.display())]
    NoFile {
        /// The directory.
        directory: PathBuf,
    },
    /// Any of them might be meant.
    #[error("the image has several files in {} ({names}): name one in containerDisk.path", directory.display())]
    Several {
        /// The directory.
        directory: PathBuf,
        /// What is there.
        names: String,
    },
    /// The directory can't be read.
    #[error("reading {} of the image: {source}", directory.display())]
    List {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be opened.
    #[error("opening {} of the image: {source} (user 107 must be able to read it)", path.display())]
    Open {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be a guest's disk.
    #[error("{} of the image {source}", path.display())]
    Image {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// Nobody can come for it.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody could end it.
    #[error("listening for SIGTERM: {0}")]
    Signal(io::Error),
    /// The process can't wait for anything.
    #[error("starting the runtime: {0}")]
    Runtime(io::Error),
}

/// Gives the image until it is told to end; without a socket, only looks whether it could.
pub fn main(args: &ContainerDiskArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.path {
        Some(path) => path.clone(),
        None => only_file(Path::new(DIRECTORY))?,
    };
    let disk = open(&path)?;
    if let Some(socket) = &args.to {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ServeError::Runtime)?.block_on(serve(&disk, socket))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The one regular file in a directory.
fn only_file(directory: &Path) -> Result<PathBuf, ServeError> {
    let list = || -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name());
            }
        }
        names.sort();
        Ok(names)
    };
    let mut names = match list() {
        Ok(names) => names,
        Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(ServeError::List { directory: directory.to_owned(), source }),
    };
    match (names.pop(), names.is_empty()) {
        (None, _) => Err(ServeError::NoFile { directory: directory.to_owned() }),
        (Some(name), true) => Ok(directory.join(name)),
        (Some(name), false) => {
            names.push(name);
            let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
            Err(ServeError::Several { directory: directory.to_owned(), names: names.join(", ") })
        }
    }
}

/// Opens a disk's image for reading. A pipe doesn't make it wait.
fn open(path: &Path) -> Result<File, ServeError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let file = file.map(File::from).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ServeError::Missing { path: path.to_owned() },
        _ => ServeError::Open { path: path.to_owned(), source },
    })?;
    match image::look(&file) {
        Ok(_) => Ok(file),
        Err(source) => Err(ServeError::Image { path: path.to_owned(), source }),
    }
}

async fn serve(disk: &File, socket: &Path) -> Result<(), ServeError> {
    // The first process of a container doesn't end by a signal that it doesn't listen for.
    let mut stop = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let listener = socket::bind(socket)?;
    tokio::select! {
        _ = stop.recv() => Ok(()),
        () = give_to_all(disk, listener) => Ok(()),
    }
}

async fn give_to_all(disk: &File, listener: UnixListener) {
    loop {
        let given = match listener.accept().await {
            Ok((stream, _)) => give(disk, &stream).await,
            Err(err) => Err(err),
        };
        if let Err(err) = given {
            eprintln!("virt-launcher: giving the disk's image away: {err}");
        }
    }
}

async fn give(disk: &File, stream: &UnixStream) -> io::Result<()> {
    let files = [disk.as_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            // There is room for exactly this.
            message.push(SendAncillaryMessage::ScmRights(&files));
            // A file travels with a byte.
            Ok(sendmsg(stream, &[IoSlice::new(b"d")], &mut message, SendFlags::NOSIGNAL)?)
        })
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::container_disk::fetch::fetch;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("vlcd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_only_file_is_meant_and_others_have_to_be_named() {
        let dir = directory("only");
        assert!(matches!(only_file(&dir), Err(ServeError::NoFile { .. })));
        assert!(matches!(only_file(&dir.join("nothing")), Err(ServeError::NoFile { .. })));
        std::fs::create_dir(dir.join("lost+found")).unwrap();
        std::fs::write(dir.join("b.img"), "b").unwrap();
        assert_eq!(only_file(&dir).unwrap(), dir.join("b.img"));
        std::fs::write(dir.join("a.img"), "a").unwrap();
        let several = only_file(&dir).unwrap_err().to_string();
        assert!(several.contains("(a.img, b.img): name one in containerDisk.path"), "{several}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_disk_is_refused_in_words() {
        let dir = directory("refused");
        std::fs::write(dir.join("empty"), "").unwrap();
        std::fs::write(dir.join("qcow2"), b"QFI\xfb").unwrap();
        for (name, why) in [
            ("nothing", "the image has no file "),
            ("", " of the image is not a regular file"),
            ("empty", "/empty of the image is empty"),
            ("qcow2", "/qcow2 of the image is a qcow2 image that is cut off"),
        ] {
            let refusal = open(&dir.join(name)).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn it_is_given_to_everybody_who_comes_and_only_for_reading() {
        let dir = directory("given");
        std::fs::write(dir.join("disk"), "content").unwrap();
        let disk = open(&dir.join("disk")).unwrap();
        let listener = socket::bind(&dir.join("socket")).unwrap();
        let giving = tokio::spawn(async move { give_to_all(&disk, listener).await });
        for _ in 0..2 {
            let mut text = String::new();
            let (mut file, image) = fetch(&dir.join("socket")).await.unwrap();
            file.read_to_string(&mut text).unwrap();
            // The position is everybody's; QEMU names one with each read.
            std::io::Seek::rewind(&mut file).unwrap();
            assert_eq!((text.as_str(), image.bytes), ("content", 512));
            assert!(io::Write::write(&mut file, b"x").is_err());
        }
        giving.abort();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
