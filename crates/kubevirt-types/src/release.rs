//! Release versions: what an image is stamped with, and how two of them compare.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The file in which every image of ours carries its release, one line.
pub const RELEASE_FILE: &str = "/etc/kubevirt-release";

/// A release such as `v0.18.0`. Ordered as semantic versions are.
///
/// Always printed with the leading `v`, which is how image tags are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Release(semver::Version);

/// A tag that names no release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tag:?} is not a release: expected a semantic version such as v0.18.0")]
pub struct ParseReleaseError {
    /// What was given.
    pub tag: String,
}

impl Release {
    /// The oldest release that this project knows, and the first with zero-downtime updates.
    pub const V0_17_0: Release = Release(semver::Version::new(0, 17, 0));
    /// The release that follows it.
    pub const V0_18_0: Release = Release(semver::Version::new(0, 18, 0));

    /// Every release whose manifests are kept in the repository, oldest first.
    pub const ALL: [Release; 2] = [Self::V0_17_0, Self::V0_18_0];

    /// The major and the minor number, as `virtctl` compares them.
    pub fn major_minor(&self) -> (u64, u64) {
        (self.0.major, self.0.minor)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl FromStr for Release {
    type Err = ParseReleaseError;

    /// Accepts `v0.18.0` and `0.18.0`, with surrounding white space as a file has it.
    fn from_str(tag: &str) -> Result<Self, Self::Err> {
        let trimmed = tag.trim();
        semver::Version::parse(trimmed.strip_prefix('v').unwrap_or(trimmed))
            .map(Release)
            .map_err(|_| ParseReleaseError { tag: tag.to_owned() })
    }
}

impl TryFrom<String> for Release {
    type Error = ParseReleaseError;

    fn try_from(tag: String) -> Result<Self, Self::Error> {
        tag.parse()
    }
}

impl From<Release> for String {
    fn from(release: Release) -> Self {
        release.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_with_and_without_v_and_prints_with_it() {
        for tag in ["v0.18.0", "0.18.0", "v0.18.0\n"] {
            assert_eq!(tag.parse::<Release>().unwrap(), Release::V0_18_0);
        }
        assert_eq!(Release::V0_17_0.to_string(), "v0.17.0");
    }

    #[test]
    fn orders_numerically_not_as_text() {
        let of = |tag: &str| tag.parse::<Release>().unwrap();
        assert!(of("v0.9.0") < of("v0.17.0"));
        assert!(of("v0.18.0-rc.1") < of("v0.18.0"));
    }

    #[test]
    fn refuses_what_is_no_release() {
        for tag in ["", "latest", "v1", "v0.18", "sha256:abc", "v0.18.0/x"] {
            assert!(tag.parse::<Release>().is_err(), "{tag}");
        }
    }
}
