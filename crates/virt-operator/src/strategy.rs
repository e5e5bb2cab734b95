//! Install strategies: a release's manifest set in a ConfigMap, written by that release's own image.
//!
//! The Job of the install strategy runs [`dump`] in the target's image; the leader reads what came
//! of it with `kubevirt_observe::strategy`. Which strategy is wanted, and when, is the planner's business.

use kube::api::{Api, Patch, PatchParams};
use kube::core::DynamicObject;
use kubevirt_manifests::customize::{self, Refusal};
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_observe::kinds::{self, CONFIG_MAP};
use kubevirt_observe::strategy::{DATA_KEY, ENCODING};
use kubevirt_types::{ObjectKey, Release, labels};
use serde_json::{Value, json};

use crate::FIELD_MANAGER;

/// Why an install strategy couldn't be made or stored.
#[derive(Debug, thiserror::Error)]
pub enum StrategyError {
    /// The environment doesn't say what to make.
    #[error("{variable} is not set: it holds what the install strategy is made from")]
    NoConfig {
        #[allow(missing_docs)]
        variable: &'static str,
    },
    /// The environment doesn't say it in our words.
    #[error("{variable} is not an install config")]
    BadConfig {
        #[allow(missing_docs)]
        variable: &'static str,
        #[source]
        #[allow(missing_docs)]
        source: serde_json::Error,
    },
    /// This image is of another release, so its manifests would be the wrong ones.
    #[error("this image is {own} and can't make the install strategy of {wanted}")]
    OtherRelease {
        #[allow(missing_docs)]
        own: Release,
        #[allow(missing_docs)]
        wanted: Release,
    },
    /// The release's workloads can't be customized so.
    #[error("{}", .refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Customize {
        #[allow(missing_docs)]
        refusals: Vec<Refusal>,
    },
    /// The API server didn't take it.
    #[error("storing ConfigMap {namespace}/{name}: {}", crate::said(error))]
    Store {
        #[allow(missing_docs)]
        namespace: String,
        #[allow(missing_docs)]
        name: String,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
}

/// The name of the ConfigMap of a deployment id.
pub fn config_map_name(id: &str) -> String {
    format!("kubevirt-install-strategy-{id}")
}

/// The ConfigMap that holds a manifest set.
pub fn config_map(set: &ManifestSet) -> Value {
    let id = set.config.id();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(&id),
            "namespace": set.config.namespace,
            "labels": {
                labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR,
                labels::INSTALL_STRATEGY: "",
            },
            "annotations": {
                labels::INSTALL_VERSION: set.config.release.to_string(),
                labels::INSTALL_REGISTRY: set.config.registry,
                labels::INSTALL_IDENTIFIER: id,
                labels::INSTALL_ENCODING: ENCODING,
            },
        },
        "data": { DATA_KEY: set.encode() },
    })
}

/// The manifest set that this image makes of a config; refuses a config of another release, and one whose
/// customization doesn't fit this release.
pub fn make(config: &str, own: &Release) -> Result<ManifestSet, StrategyError> {
    let config: InstallConfig = serde_json::from_str(config)
        .map_err(|source| StrategyError::BadConfig { variable: CONFIG_VARIABLE, source })?;
    if config.release != *own {
        return Err(StrategyError::OtherRelease { own: own.clone(), wanted: config.release });
    }
    customize::check(&config).map_err(|refusals| StrategyError::Customize { refusals })?;
    Ok(manifests(&config))
}

/// The variable of the environment that holds the install config as JSON.
pub const CONFIG_VARIABLE: &str = "TARGET_DEPLOYMENT_CONFIG";

/// Makes the manifest set that the environment asks for and stores it.
pub async fn dump(client: kube::Client, own: &Release) -> Result<(), StrategyError> {
    let config =
        std::env::var(CONFIG_VARIABLE).map_err(|_| StrategyError::NoConfig { variable: CONFIG_VARIABLE })?;
    let set = make(&config, own)?;
    let body = config_map(&set);
    let namespace = set.config.namespace.clone();
    let name = config_map_name(&set.config.id());
    let row = kinds::find(&ObjectKey::namespaced("v1", CONFIG_MAP, &namespace, &name))
        .expect("ConfigMaps are in the table");
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &row.resource());
    api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body))
        .await
        .map_err(|error| StrategyError::Store { namespace, name, error: Box::new(error) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_observe::strategy::{StrategyReadError, read};

    fn config() -> InstallConfig {
        InstallConfig::of(Release::V0_18_0)
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let set = make(&config().to_json(), &Release::V0_18_0).unwrap();
        let stored = config_map(&set);
        assert_eq!(stored["metadata"]["labels"][labels::INSTALL_STRATEGY], "");
        assert_eq!(stored["metadata"]["annotations"][labels::INSTALL_IDENTIFIER], config().id());
        assert_eq!(read(&stored).unwrap(), set);
    }

    #[test]
    fn an_image_refuses_to_make_the_manifests_of_another_release() {
        let error = make(&config().to_json(), &Release::V0_17_0).unwrap_err();
        assert_eq!(error.to_string(), "this image is v0.17.0 and can't make the install strategy of v0.18.0");
        assert!(matches!(make("{}", &Release::V0_17_0), Err(StrategyError::BadConfig { .. })));
    }

    #[test]
    fn an_image_refuses_a_customization_that_does_not_fit_its_release() {
        let mut config = serde_json::to_value(config()).unwrap();
        let patch = |path: &str| {
            let text = json!([{"op": "remove", "path": path}]).to_string();
            json!({"resourceType": "DaemonSet", "resourceName": "*", "type": "json", "patch": text})
        };
        config["customizeComponents"] = json!({"patches": [patch("/spec/template/spec/tolerations")]});
        let set = make(&config.to_string(), &Release::V0_18_0).unwrap();
        let handler = set.of_kind("DaemonSet").next().unwrap();
        assert_eq!(handler.body.pointer("/spec/template/spec/tolerations"), None);
        config["customizeComponents"] = json!({"patches": [patch("/spec/template/spec/none")]});
        let error = make(&config.to_string(), &Release::V0_18_0).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.customizeComponents.patches[0].patch: ")
                && error.ends_with("path is invalid")
        );
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let set = manifests(&config());
        let mut plain = config_map(&set);
        plain["metadata"]["annotations"][labels::INSTALL_ENCODING] = json!("plain");
        assert!(matches!(read(&plain), Err(StrategyReadError::Encoding { .. })));
        let mut empty = config_map(&set);
        empty["data"] = json!({});
        assert!(matches!(read(&empty), Err(StrategyReadError::Empty { .. })));
        let mut broken = config_map(&set);
        broken["data"][DATA_KEY] = json!("bm90IGd6aXA=");
        assert!(matches!(read(&broken), Err(StrategyReadError::Decode { .. })));
    }
}
