//! What kind of image a file is. Reads its first bytes, and nothing that these name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

/// What every qcow2 image begins with.
const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";
/// The part of its header that is the same in all versions.
const QCOW2_HEADER: usize = 72;
/// That part and the features of version 3.
const LOOK: usize = 80;
/// Guests see disks in sectors.
const SECTOR: u64 = 512;
/// The feature bit of an image whose data is in another file.
const DATA_ELSEWHERE: u64 = 1 << 2;
/// More than any guest has, and less than what overflows anything.
const LARGEST: u64 = 1 << 60;

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Sector for sector.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A disk's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// How it is written.
    pub format: Format,
    /// The size of the disk that the guest sees.
    pub bytes: u64,
}

/// A file that can't be a guest's disk.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It is a directory, a device or a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// It can't be read.
    #[error("can't be read: {0}")]
    Read(io::Error),
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It ends too early.
    #[error("is a qcow2 image that is cut off")]
    CutOff,
    /// A version that QEMU doesn't know either.
    #[error("is a qcow2 image of version {0}: 2 and 3 are possible")]
    Version(u32),
    /// Whoever made it could have any file of the launcher read.
    #[error(
        "is a qcow2 image that needs another file ({0}): convert it with qemu-img, so that it has all in it"
    )]
    NeedsAnother(&'static str),
    /// Nobody has the key.
    #[error("is an encrypted qcow2 image: only images that are not encrypted are possible")]
    Encrypted,
    /// Its header says nonsense.
    #[error("is a qcow2 image of a disk of {0} bytes")]
    Size(u64),
}

/// Looks what a file is.
pub fn look(file: &File) -> Result<Image, ImageError> {
    let about = file.metadata().map_err(ImageError::Read)?;
    if !about.is_file() {
        return Err(ImageError::NotAFile);
    }
    let mut start = [0; LOOK];
    let mut read = 0;
    while read < LOOK {
        match file.read_at(&mut start[read..], read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(ImageError::Read(err)),
        }
    }
    judge(&start[..read], about.len())
}

/// What a file of so many bytes is that begins like this.
fn judge(start: &[u8], length: u64) -> Result<Image, ImageError> {
    if !start.starts_with(QCOW2_MAGIC) {
        return match length {
            0 => Err(ImageError::Empty),
            _ => Ok(Image { format: Format::Raw, bytes: length.div_ceil(SECTOR) * SECTOR }),
        };
    }
    if start.len() < QCOW2_HEADER {
        return Err(ImageError::CutOff);
    }
    match number(start, 4, 4) {
        2 => {}
        3 if start.len() < LOOK => return Err(ImageError::CutOff),
        3 if number(start, 72, 8) & DATA_ELSEWHERE != 0 => {
            return Err(ImageError::NeedsAnother("a data file"));
        }
        3 => {}
        version => return Err(ImageError::Version(u32::try_from(version).unwrap_or(u32::MAX))),
    }
    if number(start, 8, 8) != 0 {
        return Err(ImageError::NeedsAnother("a backing file"));
    }
    if number(start, 32, 4) != 0 {
        return Err(ImageError::Encrypted);
    }
    match number(start, 24, 8) {
        bytes @ 1..=LARGEST => Ok(Image { format: Format::Qcow2, bytes: bytes.div_ceil(SECTOR) * SECTOR }),
        bytes => Err(ImageError::Size(bytes)),
    }
}

/// A big-endian number in a header that is known to be long enough.
fn number(header: &[u8], at: usize, length: usize) -> u64 {
    header[at..at + length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(version: u32, put: &[(usize, &[u8])]) -> Vec<u8> {
        let mut header = vec![0; 104];
        header[..4].copy_from_slice(QCOW2_MAGIC);
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        for (at, bytes) in put {
            header[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        header
    }

    fn judged(bytes: &[u8]) -> Result<Image, String> {
        judge(&bytes[..bytes.len().min(LOOK)], bytes.len() as u64).map_err(|err| err.to_string())
    }

    #[test]
    fn raw_is_what_is_nothing_else_in_whole_sectors() {
        assert_eq!(judged(&[7; 512]), Ok(Image { format: Format::Raw, bytes: 512 }));
        assert_eq!(judged(b"QFI"), Ok(Image { format: Format::Raw, bytes: 512 }));
        assert_eq!(judged(&[0; 513]), Ok(Image { format: Format::Raw, bytes: 1024 }));
        assert_eq!(judged(&[]), Err("is empty".into()));
    }

    #[test]
    fn qcow2_has_its_size_in_its_header() {
        for version in [2, 3] {
            assert_eq!(judged(&qcow2(version, &[])), Ok(Image { format: Format::Qcow2, bytes: 1 << 30 }));
        }
    }

    #[test]
    fn qcow2_that_would_reach_out_or_is_broken_is_refused() {
        for (bytes, why) in [
            (qcow2(3, &[(15, &[1])]), "a backing file"),
            (qcow2(2, &[(8, &[1])]), "a backing file"),
            (qcow2(3, &[(79, &[0b101])]), "a data file"),
            (qcow2(3, &[(35, &[2])]), "encrypted"),
            (qcow2(1, &[]), "version 1"),
            (qcow2(u32::MAX, &[]), "version 4294967295"),
            (qcow2(3, &[(24, &[0; 8])]), "of 0 bytes"),
            (qcow2(3, &[(24, &[0xff; 8])]), "of 18446744073709551615 bytes"),
            (qcow2(3, &[])[..76].to_vec(), "cut off"),
            (QCOW2_MAGIC.to_vec(), "cut off"),
        ] {
            let refusal = judged(&bytes).unwrap_err();
            assert!(refusal.contains(why), "{why}: {refusal}");
        }
        // Version 2 has no features there, but extensions.
        assert!(judged(&qcow2(2, &[(79, &[0b101])])).is_ok());
    }

    #[test]
    fn a_directory_is_no_image() {
        assert!(matches!(look(&File::open("/").unwrap()), Err(ImageError::NotAFile)));
    }
}
