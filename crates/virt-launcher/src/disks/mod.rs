//! What is behind a guest's disks before QEMU starts: empty files, overlays over images, cloud-init's seed.
//!
//! Makes files; never fills or deletes them later (the pod's volume does).

mod overlay;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

use rustix::io::FdFlags;
use thiserror::Error;

use crate::container_disk::fetch::{FetchError, fetch};
use crate::container_disk::image::{Format, Image};
use crate::paths::Paths;
use crate::process::Processes;
use crate::qemu::spec::{DiskSpec, Source};
use crate::seed::{self, SeedError};
use overlay::OverlayError;

/// A disk that couldn't be made.
#[derive(Debug, Error)]
pub enum DiskError {
    /// An empty one.
    #[error("making a disk of {bytes} bytes at {}: {source}", path.display())]
    Empty {
        /// Its file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// One with an image.
    #[error("volume {volume:?}: {source}")]
    Fetch {
        /// The volume.
        volume: String,
        /// Why.
        source: FetchError,
    },
    /// What the guest writes to an image has no place.
    #[error("volume {volume:?}: {source}")]
    Overlay {
        /// The volume.
        volume: String,
        /// Why.
        source: OverlayError,
    },
    /// QEMU can't be given the image.
    #[error("volume {volume:?}: handing its image on: {source}")]
    Inherit {
        /// The volume.
        volume: String,
        /// Why.
        source: io::Error,
    },
    /// One for cloud-init.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// Open images, by volume. Kept until QEMU has inherited them.
#[derive(Debug, Default)]
pub struct Images(BTreeMap<String, (File, Image)>);

/// An image as QEMU gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Its number among open files.
    pub fd: RawFd,
    /// How it is written.
    pub format: Format,
}

impl Images {
    /// The images as QEMU gets them, by volume.
    pub fn inherited(&self) -> BTreeMap<String, Inherited> {
        let as_qemu_gets_it =
            |(volume, (file, image)): (&String, &(File, Image))| (volume.clone(), (file, image).into());
        self.0.iter().map(as_qemu_gets_it).collect()
    }

    /// Lets the next program that is started have them.
    pub fn let_inherit(&self) -> Result<(), DiskError> {
        for (volume, (file, _)) in &self.0 {
            rustix::io::fcntl_setfd(file, FdFlags::empty())
                .map_err(|err| DiskError::Inherit { volume: volume.clone(), source: err.into() })?;
        }
        Ok(())
    }
}

impl From<(&File, &Image)> for Inherited {
    fn from((file, image): (&File, &Image)) -> Self {
        Self { fd: file.as_raw_fd(), format: image.format }
    }
}

/// Makes what is behind each disk. The images are for QEMU to inherit.
pub async fn create(disks: &[DiskSpec], paths: &Paths, processes: &Processes) -> Result<Images, DiskError> {
    let mut images = Images::default();
    for disk in disks {
        match &disk.source {
            Source::Empty { bytes } => empty(&disk.volume, *bytes, paths)?,
            Source::Seed(spec) => seed::make(spec, &disk.volume, paths)?,
            Source::Container { .. } => {
                let volume = disk.volume.clone();
                let fetched = fetch(&paths.container_disk(&volume)).await;
                let (file, image) =
                    fetched.map_err(|source| DiskError::Fetch { volume: volume.clone(), source })?;
                tracing::info!(volume, format = image.format.name(), bytes = image.bytes, "a disk's image");
                if !disk.readonly {
                    overlay::make(&paths.qemu_img, &paths.overlay(&volume), image.bytes, processes)
                        .await
                        .map_err(|source| DiskError::Overlay { volume: volume.clone(), source })?;
                }
                images.0.insert(volume, (file, image));
            }
        }
    }
    Ok(images)
}

/// Makes a sparse file: raw, so what the guest discards goes back to the node.
fn empty(volume: &str, bytes: u64, paths: &Paths) -> Result<(), DiskError> {
    let path = paths.empty_disk(volume);
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    made.and_then(|file| file.set_len(bytes)).map_err(|source| DiskError::Empty { path, bytes, source })
}
