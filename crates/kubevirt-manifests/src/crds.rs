//! CustomResourceDefinitions of every kind, as a release has it.

use kubevirt_types::schema::structural;
use kubevirt_types::{GROUP, Kind, Release, VERSIONS};
use serde_json::{Value, json};

/// The CRD of a kind in a release, without management metadata.
pub fn crd(kind: Kind, release: &Release) -> Value {
    let schema = structural(kind, release);
    let versions: Vec<Value> = VERSIONS
        .iter()
        .enumerate()
        .map(|(index, version)| {
            let mut entry = json!({
                "name": version,
                "served": true,
                "storage": index == 0,
                "schema": {"openAPIV3Schema": schema},
                "subresources": subresources(kind),
                "additionalPrinterColumns": columns(kind),
            });
            if index > 0 {
                entry["deprecated"] = json!(true);
                entry["deprecationWarning"] =
                    json!(format!("{GROUP}/{version} is deprecated; use {GROUP}/{}", VERSIONS[0]));
            }
            entry
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", kind.plural())},
        "spec": {
            "group": GROUP,
            "names": {
                "plural": kind.plural(),
                "singular": kind.name().to_lowercase(),
                "kind": kind.name(),
                "listKind": format!("{}List", kind.name()),
                "shortNames": short_names(kind),
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "versions": versions,
        },
    })
}

/// KubeVirt's own short names.
fn short_names(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::KubeVirt => ["kv", "kvs"],
        Kind::VirtualMachine => ["vm", "vms"],
        Kind::VirtualMachineInstance => ["vmi", "vmis"],
        Kind::VirtualMachineInstanceMigration => ["vmim", "vmims"],
        Kind::VirtualMachineInstanceReplicaSet => ["vmirs", "vmirss"],
    }
}

fn subresources(kind: Kind) -> Value {
    match kind {
        Kind::VirtualMachineInstanceReplicaSet => json!({
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.labelSelector",
            },
        }),
        Kind::KubeVirt
        | Kind::VirtualMachine
        | Kind::VirtualMachineInstance
        | Kind::VirtualMachineInstanceMigration => json!({"status": {}}),
    }
}

/// KubeVirt's own columns.
fn columns(kind: Kind) -> Value {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let text = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let wide =
        |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path, "priority": 1});
    let number = |name: &str, path: &str| json!({"name": name, "type": "integer", "jsonPath": path});
    match kind {
        Kind::KubeVirt => json!([
            age,
            text("Phase", ".status.phase"),
            wide("Target", ".status.targetKubeVirtVersion"),
            wide("Observed", ".status.observedKubeVirtVersion"),
        ]),
        Kind::VirtualMachine => json!([
            age,
            text("Status", ".status.printableStatus"),
            text("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        ]),
        Kind::VirtualMachineInstance => json!([
            age,
            text("Phase", ".status.phase"),
            text("IP", ".status.interfaces[0].ipAddress"),
            text("NodeName", ".status.nodeName"),
            text("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            wide("Live-Migratable", ".status.conditions[?(@.type=='LiveMigratable')].status"),
            wide("Paused", ".status.conditions[?(@.type=='Paused')].status"),
        ]),
        Kind::VirtualMachineInstanceMigration => {
            json!([text("Phase", ".status.phase"), text("VMI", ".spec.vmiName")])
        }
        Kind::VirtualMachineInstanceReplicaSet => json!([
            number("Desired", ".spec.replicas"),
            number("Current", ".status.replicas"),
            number("Ready", ".status.readyReplicas"),
            age,
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conversion is by name only, so a field that one version lacked would be lost on the way through it.
    #[test]
    fn every_served_version_has_the_same_fields_and_a_status() {
        for release in Release::ALL {
            for kind in Kind::ALL {
                let crd = crd(kind, &release);
                let versions = crd["spec"]["versions"].as_array().unwrap();
                assert_eq!(versions.len(), VERSIONS.len(), "{}", kind.name());
                for version in versions {
                    let name = format!("{release} {} {}", kind.name(), version["name"]);
                    assert_eq!(version["served"], true, "{name}");
                    assert_eq!(version["schema"], versions[0]["schema"], "{name}");
                    assert_eq!(version["subresources"], versions[0]["subresources"], "{name}");
                    assert!(version["subresources"]["status"].is_object(), "{name}");
                }
                let stored = versions.iter().filter(|version| version["storage"] == true);
                assert_eq!(stored.map(|version| &version["name"]).collect::<Vec<_>>(), ["v1"]);
                assert_eq!(crd["spec"]["conversion"]["strategy"], "None");
            }
        }
    }
}
