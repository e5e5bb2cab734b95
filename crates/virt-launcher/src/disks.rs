//! The files behind empty disks. Makes them; never fills or deletes them (the pod's volume does).

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::paths::Paths;
use crate::qemu::spec::DiskSpec;

/// A disk that couldn't be made.
#[derive(Debug, Error)]
#[error("making a disk of {bytes} bytes at {}: {source}", path.display())]
pub struct DiskError {
    /// Its file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Why.
    pub source: io::Error,
}

/// Makes a sparse file for each disk: raw, so what the guest discards goes back to the node.
pub fn create(disks: &[DiskSpec], paths: &Paths) -> Result<(), DiskError> {
    for disk in disks {
        let path = paths.empty_disk(&disk.volume);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        made.and_then(|file| file.set_len(disk.bytes)).map_err(|source| DiskError {
            path,
            bytes: disk.bytes,
            source,
        })?;
    }
    Ok(())
}
