//! Every object of a release, as values: `manifests(&InstallConfig) -> ManifestSet`.
//!
//! Pure. Asks the feature table what a release has. Holds no certificate and no secret: those are
//! facts of a cluster, which virt-operator makes.

pub mod config;
mod set;

pub use config::InstallConfig;
pub use set::{DecodeError, Manifest, ManifestSet, manifest_hash};

/// Every object that virt-operator applies for a release.
pub fn manifests(config: &InstallConfig) -> ManifestSet {
    ManifestSet { config: config.clone(), manifests: vec![] }
}
