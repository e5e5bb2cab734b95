//! The disk from which cloud-init reads what a guest is to become: its NoCloud data source.
//!
//! The same instance gets the same bytes on every node, so a guest that has read half of it can be
//! moved. What it says may be secret: it is never in an argument, a log or an error.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::json;
use thiserror::Error;

use crate::paths::Paths;

/// The name by which cloud-init finds the disk.
const LABEL: &[u8; 11] = b"cidata     ";
/// A CD-ROM's sectors are of this size: a smaller one couldn't be mounted from it.
const SECTOR: u16 = 2048;
/// Room for the file system's own.
const TABLES: usize = 128 * 1024;

/// What cloud-init is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedSpec {
    /// What it tells instances apart by: what is to be done once is done again for another one.
    pub instance_id: String,
    /// The guest's name.
    pub hostname: String,
    /// What to do.
    pub user_data: Document,
    /// How the network is to be.
    pub network_data: Option<Document>,
}

/// Where a text is.
#[derive(Clone, PartialEq, Eq)]
pub enum Document {
    /// In the instance.
    Inline(Vec<u8>),
    /// In a Secret that the pod mounts.
    Secret,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Secret => f.write_str("Secret"),
        }
    }
}

/// A document in a Secret: the directory's name, and the keys under which it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keys {
    directory: &'static str,
    names: [&'static str; 2],
}

const USER: Keys = Keys { directory: "user", names: ["userdata", "userData"] };
const NETWORK: Keys = Keys { directory: "network", names: ["networkdata", "networkData"] };

/// A disk for cloud-init that couldn't be made.
#[derive(Debug, Error)]
pub enum SeedError {
    /// A Secret doesn't say it.
    #[error("the Secret for volume {volume:?} has no key {} or {}", keys[0], keys[1])]
    NoKey {
        /// The volume.
        volume: String,
        /// Where it is looked for.
        keys: [&'static str; 2],
    },
    /// A Secret can't be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system couldn't be made.
    #[error("making the file system of volume {volume:?}: {source}")]
    Format {
        /// The volume.
        volume: String,
        /// Why.
        source: io::Error,
    },
    /// It couldn't be written.
    #[error("writing {}: {source}", path.display())]
    Write {
        /// The disk's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the disk of a volume.
pub fn make(spec: &SeedSpec, volume: &str, paths: &Paths) -> Result<(), SeedError> {
    let mut files =
        vec![("meta-data", meta_data(spec)), ("user-data", document(&spec.user_data, USER, volume, paths)?)];
    if let Some(network) = &spec.network_data {
        files.push(("network-config", document(network, NETWORK, volume, paths)?));
    }
    let disk = disk(&files).map_err(|source| SeedError::Format { volume: volume.to_owned(), source })?;
    let path = paths.seed(volume);
    write(&path, &disk).map_err(|source| SeedError::Write { path, source })
}

/// YAML, as any JSON is.
fn meta_data(spec: &SeedSpec) -> Vec<u8> {
    let mut text = json!({"instance-id": spec.instance_id, "local-hostname": spec.hostname}).to_string();
    text.push('\n');
    text.into_bytes()
}

fn document(document: &Document, keys: Keys, volume: &str, paths: &Paths) -> Result<Vec<u8>, SeedError> {
    match document {
        Document::Inline(bytes) => Ok(bytes.clone()),
        Document::Secret => {
            let directory = paths.cloud_init(volume, keys.directory);
            for name in keys.names {
                let path = directory.join(name);
                match std::fs::read(&path) {
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                    read => return read.map_err(|source| SeedError::Read { path, source }),
                }
            }
            Err(SeedError::NoKey { volume: volume.to_owned(), keys: keys.names })
        }
    }
}

/// A FAT file system with these files, the same bytes for the same files.
fn disk(files: &[(&str, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let sector = usize::from(SECTOR);
    let content: usize = files.iter().map(|(_, bytes)| bytes.len().next_multiple_of(sector)).sum();
    let mut disk = vec![0; (content + TABLES).next_multiple_of(TABLES)];
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(SECTOR)
        .bytes_per_cluster(u32::from(SECTOR))
        .volume_label(*LABEL)
        .volume_id(0);
    fatfs::format_volume(Cursor::new(&mut disk[..]), options)?;
    let system = FileSystem::new(Cursor::new(&mut disk[..]), FsOptions::new())?;
    for (name, bytes) in files {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    system.unmount()?;
    Ok(disk)
}

fn write(path: &Path, disk: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(disk)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn spec() -> SeedSpec {
        SeedSpec {
            instance_id: "vm.default".into(),
            hostname: "vm".into(),
            user_data: Document::Inline(b"#cloud-config\n".to_vec()),
            network_data: None,
        }
    }

    fn paths(name: &str) -> Paths {
        let dir = std::env::temp_dir().join(format!("vls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let run = ["virt-launcher", "--name", "vm", "--namespace", "default", "--uid", "u"];
        let paths = Args::try_parse_from(run).unwrap().run.paths;
        Paths { ephemeral_disks: dir.clone(), cloud_init: dir, ..paths }
    }

    fn read(disk: &[u8], name: &str) -> Option<String> {
        let system = FileSystem::new(Cursor::new(disk.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("cidata"));
        let mut text = String::new();
        system.root_dir().open_file(name).ok()?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn it_holds_what_was_said_and_is_the_same_every_time() {
        let paths = paths("inline");
        make(&SeedSpec { network_data: Some(Document::Inline(b"n".to_vec())), ..spec() }, "a", &paths)
            .unwrap();
        let disk = std::fs::read(paths.seed("a")).unwrap();
        let meta = "{\"instance-id\":\"vm.default\",\"local-hostname\":\"vm\"}\n";
        assert_eq!(read(&disk, "meta-data").as_deref(), Some(meta));
        assert_eq!(read(&disk, "user-data").as_deref(), Some("#cloud-config\n"));
        assert_eq!(read(&disk, "network-config").as_deref(), Some("n"));

        make(&spec(), "b", &paths).unwrap();
        make(&spec(), "c", &paths).unwrap();
        let disk = std::fs::read(paths.seed("b")).unwrap();
        assert_eq!(read(&disk, "network-config"), None);
        assert!(disk == std::fs::read(paths.seed("c")).unwrap());
        // The second in which it is made would be in it otherwise, and this is done in less.
        let system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        let years: Vec<u16> =
            system.root_dir().iter().map(|file| file.unwrap().modified().date.year).collect();
        assert_eq!(years, [1980, 1980]);
        std::fs::remove_dir_all(&paths.ephemeral_disks).unwrap();
    }

    #[test]
    fn it_has_room_for_the_largest_secrets() {
        let large = vec![b'x'; 1 << 20];
        let disk = disk(&[("user-data", large.clone()), ("network-config", large)]).unwrap();
        assert_eq!(read(&disk, "network-config").map(|text| text.len()), Some(1 << 20));
    }

    #[test]
    fn a_secret_may_have_either_key_and_must_have_one() {
        let paths = paths("secret");
        let secret = |user| SeedSpec { user_data: user, network_data: Some(Document::Secret), ..spec() };
        for directory in ["user", "network"] {
            std::fs::create_dir_all(paths.cloud_init("a", directory)).unwrap();
        }
        std::fs::write(paths.cloud_init("a", "user").join("userData"), "hidden").unwrap();
        let missing = make(&secret(Document::Secret), "a", &paths).unwrap_err().to_string();
        assert_eq!(missing, r#"the Secret for volume "a" has no key networkdata or networkData"#);
        std::fs::write(paths.cloud_init("a", "network").join("networkdata"), "v2").unwrap();
        make(&secret(Document::Secret), "a", &paths).unwrap();
        let disk = std::fs::read(paths.seed("a")).unwrap();
        assert_eq!(read(&disk, "user-data").as_deref(), Some("hidden"));
        assert_eq!(read(&disk, "network-config").as_deref(), Some("v2"));
        std::fs::remove_dir_all(&paths.ephemeral_disks).unwrap();
    }

    #[test]
    fn what_is_secret_is_in_no_text() {
        let shown = format!("{:?}", SeedSpec { user_data: Document::Inline(b"hidden".to_vec()), ..spec() });
        assert!(shown.contains("Inline(6 bytes)") && !shown.contains("hidden"), "{shown}");
    }
}
