//! Files carried between the containers of a launcher pod.
//!
//! Runs in other people's images, which may hold nothing but the files asked for, so it
//! uses nothing but the system calls.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use thiserror::Error;

use crate::args::KernelBootArgs;
use crate::paths::{INITRD, KERNEL};

/// A file that couldn't be carried.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The image doesn't hold it.
    #[error("the image has no file {}: check the path in kernelBoot.container", path.display())]
    Missing {
        /// Path in the image.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Path in the image.
        path: PathBuf,
    },
    /// It couldn't be copied.
    #[error("copying {} to {}: {source}", from.display(), to.display())]
    Copy {
        /// The source.
        from: PathBuf,
        /// The destination.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Copies this program into `dir`.
pub fn copy_self(dir: &Path) -> Result<ExitCode, FilesError> {
    copy(Path::new("/proc/self/exe"), &dir.join("virt-launcher"), 0o755)?;
    Ok(ExitCode::SUCCESS)
}

/// Copies kernel and initrd into a directory, under the names that QEMU is told.
pub fn kernel_boot(args: &KernelBootArgs) -> Result<ExitCode, FilesError> {
    copy(&args.kernel, &args.to.join(KERNEL), 0o644)?;
    if let Some(initrd) = &args.initrd {
        copy(initrd, &args.to.join(INITRD), 0o644)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), FilesError> {
    let failed = |source| FilesError::Copy { from: from.to_owned(), to: to.to_owned(), source };
    let kind = std::fs::metadata(from).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => FilesError::Missing { path: from.to_owned() },
        _ => failed(err),
    })?;
    if !kind.is_file() {
        return Err(FilesError::NotAFile { path: from.to_owned() });
    }
    std::fs::copy(from, to).map_err(failed)?;
    std::fs::set_permissions(to, PermissionsExt::from_mode(mode)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_with_fixed_modes_and_says_what_is_missing() {
        let dir = std::env::temp_dir().join(format!("virt-launcher-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let vmlinuz = dir.join("vmlinuz");
        std::fs::write(&vmlinuz, "kernel").unwrap();
        std::fs::set_permissions(&vmlinuz, PermissionsExt::from_mode(0o600)).unwrap();

        let args = KernelBootArgs { kernel: vmlinuz, initrd: None, to: dir.clone() };
        kernel_boot(&args).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join(KERNEL)).unwrap(), "kernel");
        let mode = std::fs::metadata(dir.join(KERNEL)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);

        let missing = KernelBootArgs { initrd: Some("/no/such/initrd".into()), ..args };
        assert_eq!(
            kernel_boot(&missing).unwrap_err().to_string(),
            "the image has no file /no/such/initrd: check the path in kernelBoot.container"
        );
        let directory = KernelBootArgs { kernel: dir.clone(), initrd: None, to: dir.clone() };
        assert!(matches!(kernel_boot(&directory), Err(FilesError::NotAFile { .. })));

        copy_self(&dir).unwrap();
        let mode = std::fs::metadata(dir.join("virt-launcher")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
