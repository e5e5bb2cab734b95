//! What the KubeVirt object says about launchers and machines. Read at each decision, so a
//! change holds for the next launcher pod.

use std::sync::Arc;

use kubevirt_types::KubeVirt;

use crate::launcher::LauncherConfig;

const DEFAULT_PULL_POLICY: &str = "IfNotPresent";
const DEFAULT_MACHINE: &str = "q35";

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How launcher pods are made.
    pub launcher: LauncherConfig,
    /// QEMU's machine type for templates that name none.
    pub machine_type: String,
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
            }
        );
    }
}
