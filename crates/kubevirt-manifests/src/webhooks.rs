//! Admission webhooks and aggregated API services. Their CA bundle is a cluster's fact: left out here.

use kubevirt_types::feature::{What, exists};
use kubevirt_types::{GROUP, Kind, VERSIONS};
use serde_json::{Value, json};

use crate::config::InstallConfig;
use crate::workloads::{OPERATOR_WEBHOOK, VIRT_API};

/// Name of the webhooks that virt-api serves, mutating.
pub const API_MUTATOR: &str = "virt-api-mutator";
/// Name of the webhooks that virt-api serves, validating.
pub const API_VALIDATOR: &str = "virt-api-validator";
/// Name of the webhooks that virt-operator serves.
pub const OPERATOR_VALIDATOR: &str = "virt-operator-validator";

/// One webhook: its name, its path, the kind, the operations.
type Hook = (&'static str, &'static str, Kind, &'static [&'static str]);

const MUTATING: &[Hook] = &[
    (
        "virtualmachines-mutator.kubevirt.io",
        "/virtualmachines-mutate",
        Kind::VirtualMachine,
        &["CREATE", "UPDATE"],
    ),
    (
        "virtualmachineinstances-mutator.kubevirt.io",
        "/virtualmachineinstances-mutate",
        Kind::VirtualMachineInstance,
        &["CREATE"],
    ),
];

const VALIDATING: &[Hook] = &[
    (
        "virtualmachine-validator.kubevirt.io",
        "/virtualmachines-validate",
        Kind::VirtualMachine,
        &["CREATE", "UPDATE"],
    ),
    (
        "virtualmachineinstances-create-validator.kubevirt.io",
        "/virtualmachineinstances-validate-create",
        Kind::VirtualMachineInstance,
        &["CREATE"],
    ),
    (
        "virtualmachineinstances-update-validator.kubevirt.io",
        "/virtualmachineinstances-validate-update",
        Kind::VirtualMachineInstance,
        &["UPDATE"],
    ),
    (
        "migration-create-validator.kubevirt.io",
        "/migration-validate-create",
        Kind::VirtualMachineInstanceMigration,
        &["CREATE"],
    ),
    (
        "migration-update-validator.kubevirt.io",
        "/migration-validate-update",
        Kind::VirtualMachineInstanceMigration,
        &["UPDATE"],
    ),
    (
        "virtualmachinereplicaset-validator.kubevirt.io",
        "/virtualmachinereplicaset-validate",
        Kind::VirtualMachineInstanceReplicaSet,
        &["CREATE", "UPDATE"],
    ),
];

const OPERATOR: &[Hook] = &[
    ("kubevirt-create-validator.kubevirt.io", "/kubevirt-validate-create", Kind::KubeVirt, &["CREATE"]),
    ("kubevirt-update-validator.kubevirt.io", "/kubevirt-validate-update", Kind::KubeVirt, &["UPDATE"]),
    ("kubevirt-validator.kubevirt.io", "/kubevirt-validate-delete", Kind::KubeVirt, &["DELETE"]),
];

/// Every webhook configuration and API service of a release.
pub fn webhooks(config: &InstallConfig) -> Vec<Value> {
    let mut objects = vec![
        configuration(
            config,
            "ValidatingWebhookConfiguration",
            OPERATOR_VALIDATOR,
            OPERATOR_WEBHOOK,
            OPERATOR,
        ),
        configuration(config, "MutatingWebhookConfiguration", API_MUTATOR, VIRT_API, MUTATING),
    ];
    let mut validator =
        configuration(config, "ValidatingWebhookConfiguration", API_VALIDATOR, VIRT_API, VALIDATING);
    if exists(What::VmiSpecField("evictionStrategy"), &config.release) {
        let hooks = validator["webhooks"].as_array_mut().expect("made as a list");
        hooks.push(eviction(config));
    }
    objects.push(validator);
    objects.extend(VERSIONS.iter().map(|version| api_service(config, version)));
    objects
}

fn configuration(config: &InstallConfig, kind: &str, name: &str, service: &str, hooks: &[Hook]) -> Value {
    let hooks: Vec<Value> = hooks
        .iter()
        .filter(|(.., kind, _)| kind.exists_in(&config.release))
        .map(|hook| webhook(config, service, hook))
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "webhooks": hooks,
    })
}

fn webhook(config: &InstallConfig, service: &str, hook: &Hook) -> Value {
    let (name, path, kind, operations) = hook;
    json!({
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {
            "namespace": config.namespace, "name": service, "path": path, "port": 443,
        }},
        "rules": [{
            "apiGroups": [GROUP],
            "apiVersions": VERSIONS,
            "resources": [kind.plural()],
            "operations": operations,
            "scope": "*",
        }],
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": 10,
    })
}

/// Evictions of launcher pods only: with virt-api away, nobody else's eviction fails.
fn eviction(config: &InstallConfig) -> Value {
    let hook = (
        "pod-eviction-validator.kubevirt.io",
        "/pod-eviction-validate",
        Kind::VirtualMachineInstance,
        &[][..],
    );
    let mut hook = webhook(config, VIRT_API, &hook);
    hook["rules"] = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/eviction"], "operations": ["CREATE"],
        "scope": "Namespaced",
    }]);
    hook["matchConditions"] =
        json!([{"name": "launcher-pods", "expression": "request.name.startsWith('virt-launcher-')"}]);
    // It marks the instance that is to be moved.
    hook["sideEffects"] = json!("NoneOnDryRun");
    hook
}

fn api_service(config: &InstallConfig, version: &str) -> Value {
    let group = format!("subresources.{GROUP}");
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}")},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 1000,
            "versionPriority": 15,
            "service": {"namespace": config.namespace, "name": VIRT_API, "port": 443},
        },
    })
}
