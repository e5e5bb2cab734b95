//! What the KubeVirt object says about launchers, machines and migrations. Read at each decision, so a
//! change holds for the next launcher pod.

use std::sync::Arc;

use kubevirt_types::KubeVirt;
use kubevirt_types::migration::{
    DEFAULT_COMPLETION_TIMEOUT_PER_GIB, DEFAULT_PARALLEL_OUTBOUND_PER_NODE, DEFAULT_PARALLEL_PER_CLUSTER,
    DEFAULT_PROGRESS_TIMEOUT, MigrationConfiguration,
};

use crate::launcher::LauncherConfig;

const DEFAULT_PULL_POLICY: &str = "IfNotPresent";
const DEFAULT_MACHINE: &str = "q35";

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How launcher pods are made.
    pub launcher: LauncherConfig,
    /// QEMU's machine type for templates that name none.
    pub machine_type: String,
    /// The limits of migrations, each with a value where there is a default.
    pub migrations: MigrationConfiguration,
}

/// The settings of an installation; the oldest object counts, as only one is allowed.
pub fn settings(launcher_image: &str, installations: &[Arc<KubeVirt>]) -> Settings {
    let chosen = installations.iter().min_by_key(|kv| {
        (kv.metadata.creation_timestamp.as_ref().map(|time| time.0), kv.metadata.name.clone())
    });
    let spec = chosen.map(|kv| kv.spec.clone()).unwrap_or_default();
    let use_emulation = spec.use_emulation();
    let configuration = spec.configuration.unwrap_or_default();
    let or_default = |text: Option<String>, default: &str| {
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    Settings {
        launcher: LauncherConfig {
            image: launcher_image.to_owned(),
            use_emulation,
            image_pull_policy: or_default(spec.image_pull_policy, DEFAULT_PULL_POLICY),
            guest_image_pull_policy: or_default(configuration.image_pull_policy, DEFAULT_PULL_POLICY),
        },
        machine_type: or_default(configuration.machine_type, DEFAULT_MACHINE),
        migrations: in_force(configuration.migrations.unwrap_or_default()),
    }
}

/// What is given, and the defaults: a migration keeps what held when it began, whatever a later
/// release takes for a default.
fn in_force(given: MigrationConfiguration) -> MigrationConfiguration {
    let at_least_one = |given: Option<u32>, default| Some(given.unwrap_or(default).max(1));
    MigrationConfiguration {
        parallel_migrations_per_cluster: at_least_one(
            given.parallel_migrations_per_cluster,
            DEFAULT_PARALLEL_PER_CLUSTER,
        ),
        parallel_outbound_migrations_per_node: at_least_one(
            given.parallel_outbound_migrations_per_node,
            DEFAULT_PARALLEL_OUTBOUND_PER_NODE,
        ),
        bandwidth_per_migration: given.bandwidth_per_migration,
        completion_timeout_per_gib: given
            .completion_timeout_per_gib
            .or(Some(DEFAULT_COMPLETION_TIMEOUT_PER_GIB)),
        progress_timeout: given.progress_timeout.or(Some(DEFAULT_PROGRESS_TIMEOUT)),
        allow_auto_converge: given.allow_auto_converge.or(Some(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_object_decides_and_defaults_stand_in() {
        let none = settings("img", &[]);
        assert!(!none.launcher.use_emulation);
        assert_eq!(
            (none.launcher.image_pull_policy.as_str(), none.machine_type.as_str()),
            ("IfNotPresent", "q35")
        );
        let kv = serde_json::from_value(json!({
            "metadata": {"name": "kubevirt"},
            "spec": {
                "imagePullPolicy": "Always",
                "configuration": {
                    "machineType": "pc", "imagePullPolicy": "Never",
                    "migrations": {"parallelMigrationsPerCluster": 9, "bandwidthPerMigration": "64Mi"},
                    "developerConfiguration": {"useEmulation": true},
                },
            },
        }))
        .unwrap();
        let some = settings("img", &[Arc::new(kv)]);
        assert_eq!(
            some,
            Settings {
                launcher: LauncherConfig {
                    image: "img".into(),
                    use_emulation: true,
                    image_pull_policy: "Always".into(),
                    guest_image_pull_policy: "Never".into(),
                },
                machine_type: "pc".into(),
                migrations: serde_json::from_value(json!({
                    "parallelMigrationsPerCluster": 9, "parallelOutboundMigrationsPerNode": 2,
                    "bandwidthPerMigration": "64Mi", "completionTimeoutPerGiB": 150, "progressTimeout": 150,
                    "allowAutoConverge": false,
                }))
                .unwrap(),
            }
        );
    }
}
