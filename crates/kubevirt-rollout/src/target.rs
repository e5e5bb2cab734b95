//! What the spec asks for: the release, registry and settings to install.

use kubevirt_manifests::InstallConfig;
use kubevirt_manifests::customize::{self, Refusal};
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
    /// The components can't be customized so.
    #[error("{}", .refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Customize {
        /// What is wrong with which patch or flag; at least one.
        refusals: Vec<Refusal>,
    },
}

/// Resolves the spec. Where it names neither tag nor registry, the version is locked to the operator's.
///
/// # Errors
/// When `imageTag` is not a release, or `customizeComponents` can't be carried out.
pub fn resolve(spec: &KubeVirtSpec, operator: &Operator) -> Result<InstallConfig, TargetError> {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let release = match given(&spec.image_tag) {
        Some(tag) => tag.parse()?,
        None => operator.release.clone(),
    };
    let config = InstallConfig {
        release,
        registry: given(&spec.image_registry).unwrap_or_else(|| operator.registry.clone()),
        namespace: operator.namespace.clone(),
        image_pull_policy: given(&spec.image_pull_policy).unwrap_or_else(|| DEFAULT_PULL_POLICY.to_owned()),
        customize_components: spec
            .customize_components
            .clone()
            .filter(|customize| *customize != CustomizeComponents::default()),
        drain_seconds: spec.update_strategy.as_ref().and_then(|strategy| strategy.drain_seconds),
    };
    customizable(&config, operator).map_err(|refusals| TargetError::Customize { refusals })?;
    Ok(config)
}

/// What a newer release's workloads are only its own image knows: whether a patch applies to them is said by the Job
/// that runs it.
fn customizable(config: &InstallConfig, operator: &Operator) -> Result<(), Vec<Refusal>> {
    match &config.customize_components {
        Some(customize) if config.release > operator.release => customize::check_form(customize),
        Some(_) => customize::check(config),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;
    use serde_json::json;

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
    fn a_drain_limit_is_part_of_what_is_installed() {
        let operator = Operator { release: Release::V0_18_0, registry: "r".into(), namespace: "n".into() };
        let resolved = |spec: serde_json::Value| {
            let spec: KubeVirtSpec = serde_json::from_value(spec).unwrap();
            resolve(&spec, &operator).unwrap().drain_seconds
        };
        assert_eq!(resolved(json!({"updateStrategy": {"drainSeconds": 600}})), Some(600));
        assert_eq!(resolved(json!({"updateStrategy": {"soakSeconds": 5}})), None);
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

    #[test]
    fn a_customization_is_judged_by_who_knows_the_release() {
        let patch = |text: &str| -> KubeVirtSpec {
            let patch = json!({"resourceType": "Deployment", "resourceName": "virt-api", "type": "json", "patch": text});
            serde_json::from_value(json!({"customizeComponents": {"patches": [patch]}})).unwrap()
        };
        let operator = Operator { release: Release::V0_17_0, registry: "r".into(), namespace: "n".into() };
        let at = "spec.customizeComponents.patches[0].patch: Invalid value: ";
        let missing = r#"[{"op": "remove", "path": "/spec/x"}]"#;
        let cases = [
            (None, "[]", Ok(())),
            (None, missing, Err("path is invalid")),
            (Some("v0.16.0"), missing, Err("path is invalid")),
            (Some("v0.18.0"), missing, Ok(())),
            (Some("v0.18.0"), "{}", Err("expected a sequence")),
        ];
        for (tag, text, want) in cases {
            let spec = KubeVirtSpec { image_tag: tag.map(str::to_owned), ..patch(text) };
            match (resolve(&spec, &operator).map_err(|error| error.to_string()), want) {
                (Ok(config), Ok(())) => assert_eq!(config.customize_components, spec.customize_components),
                (Err(said), Err(why)) => assert!(said.starts_with(at) && said.ends_with(why), "{said}"),
                (found, want) => panic!("{tag:?} {text}: {found:?} and not {want:?}"),
            }
        }
        let nothing = KubeVirtSpec {
            customize_components: Some(CustomizeComponents::default()),
            ..KubeVirtSpec::default()
        };
        let id = |spec: &KubeVirtSpec| resolve(spec, &operator).unwrap().id();
        assert_eq!(id(&nothing), id(&KubeVirtSpec::default()), "nothing asked for is nothing changed");
        assert_ne!(id(&patch("[]")), id(&patch(" []")), "a stored set is of one config only");
    }
}
