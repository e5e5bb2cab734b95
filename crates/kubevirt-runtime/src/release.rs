//! The release that this process runs: the image's stamp, or the crate's version without one.

use std::path::Path;

use kubevirt_types::release::{RELEASE_FILE, Release};

/// The release in the image's `/etc/kubevirt-release`; the crate's own version where there is none.
pub fn release() -> Release {
    read(Path::new(RELEASE_FILE)).unwrap_or_else(own)
}

fn own() -> Release {
    env!("CARGO_PKG_VERSION").parse().expect("cargo accepts only semantic versions")
}

/// None where the file is absent. An unreadable stamp is said and treated as absent.
fn read(path: &Path) -> Option<Release> {
    let stamp = std::fs::read_to_string(path).ok()?;
    stamp
        .parse()
        .inspect_err(|error| tracing::error!(%error, path = %path.display(), "bad release stamp"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_wins_over_the_crate_and_a_missing_one_is_no_error() {
        let dir = std::env::temp_dir().join(format!("kubevirt-release-{}", std::process::id()));
        std::fs::write(&dir, "v0.17.0\n").unwrap();
        assert_eq!(read(&dir), Some(Release::V0_17_0));
        std::fs::write(&dir, "latest\n").unwrap();
        assert_eq!(read(&dir), None);
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(read(&dir), None);
        assert_eq!(own(), Release::V0_18_0);
    }
}
