//! What the spec asks for: the release, registry and settings to install.

use kubevirt_manifests::InstallConfig;
use kubevirt_types::kubevirt::{CustomizeComponents, KubeVirtSpec};
use kubevirt_types::release::ParseReleaseError;

use crate::observed::Operator;

/// Pull policy where the spec names none.
const DEFAULT_PULL_POLICY: &str = "IfNotPresent";

/// Why the spec asks for nothing that can be installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The tag names no release.
    #[error("spec.imageTag: Invalid value: {source}")]
    ImageTag {
        /// Why.
        #[from]
        source: ParseReleaseError,
    },
}

/// Resolves the spec. Where it names neither tag nor registry, the version is locked to the operator's.
///
/// # Errors
/// When `imageTag` is not a release.
pub fn resolve(spec: &KubeVirtSpec, operator: &Operator) -> Result<InstallConfig, TargetError> {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let release = match given(&spec.image_tag) {
        Some(tag) => tag.parse()?,
        None => operator.release.clone(),
    };
    Ok(InstallConfig {
        release,
        registry: given(&spec.image_registry).unwrap_or_else(|| operator.registry.clone()),
        namespace: operator.namespace.clone(),
        image_pull_policy: given(&spec.image_pull_policy).unwrap_or_else(|| DEFAULT_PULL_POLICY.to_owned()),
        customize_components: spec
            .customize_components
            .clone()
            .filter(|customize| *customize != CustomizeComponents::default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;

    #[test]
    fn tag_and_registry_override_the_operators_own() {
        let operator =
            Operator { release: Release::V0_18_0, registry: "own".into(), namespace: "kubevirt".into() };
        let cases = [
            (None, None, "own", "v0.18.0"),
            (Some("v0.17.0"), None, "own", "v0.17.0"),
            (Some("0.17.0"), Some("other:5000/kv"), "other:5000/kv", "v0.17.0"),
            (None, Some("other"), "other", "v0.18.0"),
            (Some(""), Some(""), "own", "v0.18.0"),
        ];
        for (tag, registry, want_registry, want_release) in cases {
            let spec = KubeVirtSpec {
                image_tag: tag.map(str::to_owned),
                image_registry: registry.map(str::to_owned),
                ..KubeVirtSpec::default()
            };
            let config = resolve(&spec, &operator).unwrap();
            assert_eq!(
                (config.registry.as_str(), config.release.to_string().as_str()),
                (want_registry, want_release)
            );
        }
    }

    #[test]
    fn a_tag_that_is_no_release_is_named_with_what_is_expected() {
        let operator = Operator { release: Release::V0_18_0, registry: "r".into(), namespace: "n".into() };
        let spec = KubeVirtSpec { image_tag: Some("foo".into()), ..KubeVirtSpec::default() };
        assert_eq!(
            resolve(&spec, &operator).unwrap_err().to_string(),
            "spec.imageTag: Invalid value: \"foo\" is not a release: expected a semantic version such as v0.18.0"
        );
    }
}
