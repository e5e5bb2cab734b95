//! Every object of a release, as values: `manifests(&InstallConfig) -> ManifestSet`.
//!
//! Pure. Asks the feature table what a release has. Holds no certificate and no secret: those are
//! facts of a cluster, which virt-operator makes.

pub mod config;
mod crds;
pub mod customize;
mod operator;
mod rbac;
mod set;
pub mod webhooks;
pub mod workloads;

use kubevirt_types::Kind;
use serde_json::Value;

pub use config::InstallConfig;
pub use crds::crd;
pub use operator::{ACCOUNT_OPERATOR, PROBE, kubevirt_object, operator_objects};
pub use set::{DecodeError, Manifest, ManifestSet, manifest_hash};

/// Every object that virt-operator applies for a release. A customization that [`customize::check`] refuses is left
/// out as a whole: whoever takes a config from outside asks there first.
pub fn manifests(config: &InstallConfig) -> ManifestSet {
    let workloads = customize::workloads(config).unwrap_or_else(|_| workloads::workloads(config));
    let crds = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::KubeVirt && kind.exists_in(&config.release))
        .map(|kind| crd(kind, &config.release));
    let manifests = crds
        .chain(rbac::rbac(config))
        .chain(workloads)
        .chain(webhooks::webhooks(config))
        .map(|body| Manifest::managed(body, config))
        .collect();
    ManifestSet { config: config.clone(), manifests }
}

/// Objects as one YAML text, documents apart by `---`.
///
/// # Errors
/// When a value can't be written as YAML.
pub fn to_yaml(objects: &[Value]) -> Result<String, serde_saphyr::ser::Error> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(documents?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use kubevirt_types::{ObjectKey, Release};
    use serde_json::json;

    use super::*;

    fn set(release: Release) -> ManifestSet {
        manifests(&InstallConfig::of(release))
    }

    #[test]
    fn keys_are_unique_and_everything_is_stamped() {
        for release in Release::ALL {
            let set = set(release.clone());
            for (index, manifest) in set.manifests.iter().enumerate() {
                assert!(set.manifests[..index].iter().all(|m| m.key != manifest.key), "{}", manifest.key);
                assert_eq!(manifest.hash(), manifest.clone().rehashed().hash(), "{}", manifest.key);
                let version = "/metadata/annotations/kubevirt.io~1install-strategy-version";
                assert_eq!(manifest.body.pointer(version), Some(&json!(release.to_string())));
            }
        }
    }

    #[test]
    fn survives_the_stored_form() {
        let set = set(Release::V0_18_0);
        let stored = set.encode();
        assert!(stored.len() < 900_000, "{} bytes must fit a ConfigMap", stored.len());
        assert_eq!(ManifestSet::decode(&stored).unwrap(), set);
        assert!(ManifestSet::decode("no").is_err());
        assert!(ManifestSet::decode(&stored[..stored.len() / 2 / 4 * 4]).is_err());
    }

    #[test]
    fn the_grace_of_a_pod_with_streams_follows_the_drain_limit() {
        let said = |drain_seconds: Option<u32>| {
            let config = InstallConfig { drain_seconds, ..InstallConfig::of(Release::V0_18_0) };
            let pods = workloads::workloads(&config).into_iter().filter_map(|workload| {
                let pod = workload.pointer("/spec/template/spec")?.clone();
                let args = pod["containers"][0]["args"].as_array()?.clone();
                let limit =
                    args.iter().position(|arg| arg == "--drain-seconds").map(|at| args[at + 1].clone());
                Some((
                    workload["metadata"]["name"].clone(),
                    pod["terminationGracePeriodSeconds"].clone(),
                    limit,
                ))
            });
            serde_json::json!(pods.collect::<Vec<_>>())
        };
        let expected = |grace: i64, limit: Option<&str>| {
            serde_json::json!([
                ["virt-handler", grace, limit],
                ["virt-controller", 30, null],
                ["virt-api", grace, limit],
            ])
        };
        assert_eq!(said(None), expected(3690, None));
        assert_eq!(said(Some(0)), expected(90, Some("0")));
        assert_eq!(said(Some(86_400)), expected(86_490, Some("86400")));
    }

    #[test]
    fn the_releases_differ_as_the_feature_table_says() {
        let [old, new] = Release::ALL.map(set);
        let crd = |plural: &str| {
            ObjectKey::cluster(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                &format!("{plural}.kubevirt.io"),
            )
        };
        assert!(old.get(&crd("virtualmachineinstancereplicasets")).is_none());
        assert!(new.get(&crd("virtualmachineinstancereplicasets")).is_some());
        let rules = |set: &ManifestSet| {
            set.get(&ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "kubevirt-controller"))
                .unwrap()
                .body["rules"]
                .to_string()
        };
        let patches_nodes = r#"{"apiGroups":[""],"resources":["nodes"],"verbs":["patch","update"]}"#;
        assert!(rules(&old).contains(patches_nodes) && !rules(&new).contains(patches_nodes));
        assert!(!rules(&old).contains("replicasets") && rules(&new).contains("replicasets"));
    }

    #[test]
    fn the_operator_may_write_every_role_that_it_makes() {
        for release in Release::ALL {
            for kind in ["ClusterRole", "Role"] {
                for manifest in set(release.clone()).of_kind(kind) {
                    assert!(rbac::ROLE_NAMES.contains(&manifest.key.name.as_str()), "{}", manifest.key);
                }
            }
        }
    }

    #[test]
    fn yaml_reads_back_as_it_was() {
        let objects = operator_objects(&InstallConfig::of(Release::V0_18_0));
        let text = to_yaml(&objects).unwrap();
        for (document, object) in text.split("---\n").zip(&objects) {
            let back: Value = serde_saphyr::from_str(document).unwrap();
            assert_eq!(back, *object);
        }
    }
}
