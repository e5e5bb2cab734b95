//! All that a release's manifests are made from.

use kubevirt_types::Release;
use kubevirt_types::kubevirt::CustomizeComponents;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The registry of images where nobody names another.
pub const DEFAULT_REGISTRY: &str = "kubevirt";

/// All that a release's manifests are made from. Its JSON form is the deployment config in the
/// status of the KubeVirt object and in the environment of the install strategy's Job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallConfig {
    /// The release to run.
    pub release: Release,
    /// Where the images are, such as `kubevirt` or `registry:5000/kubevirt`.
    pub registry: String,
    /// The namespace of the control plane.
    pub namespace: String,
    /// Pull policy of the control plane's images.
    pub image_pull_policy: String,
    /// Changes to the control plane's own workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customize_components: Option<CustomizeComponents>,
    /// For how long virt-api and virt-handler carry streams when they end, in seconds; none for their own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u32>,
}

impl InstallConfig {
    /// A release with everything else as the shipped manifests have it.
    pub fn of(release: Release) -> Self {
        Self {
            release,
            registry: DEFAULT_REGISTRY.to_owned(),
            namespace: kubevirt_types::labels::DEFAULT_NAMESPACE.to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            customize_components: None,
            drain_seconds: None,
        }
    }

    /// The deployment id: a hash of all fields, 16 hexadecimal digits.
    pub fn id(&self) -> String {
        hash(&self.to_json())
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings serializes")
    }

    /// The image of a component in this release.
    pub fn image(&self, component: &str) -> String {
        format!("{}/{}:{}", self.registry, component, self.release)
    }
}

/// A short stable hash of a text: the first 16 hexadecimal digits of its SHA-256.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_changes_with_every_field_and_survives_the_wire() {
        let config = InstallConfig::of(Release::V0_17_0);
        let others = [
            InstallConfig { release: Release::V0_18_0, ..config.clone() },
            InstallConfig { registry: "other".into(), ..config.clone() },
            InstallConfig { namespace: "other".into(), ..config.clone() },
            InstallConfig { image_pull_policy: "Always".into(), ..config.clone() },
            InstallConfig { customize_components: Some(CustomizeComponents::default()), ..config.clone() },
            InstallConfig { drain_seconds: Some(0), ..config.clone() },
        ];
        assert!(others.iter().all(|other| other.id() != config.id()));
        let back: InstallConfig = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(back, config);
        assert_eq!(config.image("virt-api"), "kubevirt/virt-api:v0.17.0");
    }
}
