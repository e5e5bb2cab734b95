//! What a KubeVirt object may say, and when it may be created and deleted.
//!
//! Pure answers for the operator's webhooks; an empty list is a yes.

mod certificates;

use std::fmt;

use kubevirt_manifests::customize::Refusal;
use kubevirt_types::KubeVirt;
use kubevirt_types::kubevirt::{KubeVirtPhase, UninstallStrategy};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::observed::Operator;
use crate::target::{TargetError, resolve};

/// The pull policies that Kubernetes knows.
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// The longest soak. A Deployment that waits for it must not look as if it didn't progress.
const MAX_SOAK_SECONDS: u32 = 3600;
/// The longest drain: a pod that ends for longer is in the way of whoever drains its node.
const MAX_DRAIN_SECONDS: u32 = 86_400;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldError {
    /// A field's value can't be used.
    Invalid {
        /// The field, such as `spec.imageTag`.
        field: String,
        /// What was given.
        value: String,
        /// What is wrong, and what is expected.
        detail: String,
    },
    /// The request as a whole is refused.
    Forbidden {
        /// Why.
        detail: String,
    },
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, value, detail } => {
                write!(f, "{field}: Invalid value: {value:?}: {detail}")
            }
            Self::Forbidden { detail } => f.write_str(detail),
        }
    }
}

impl FieldError {
    /// The field; empty when the request as a whole is refused.
    pub fn field(&self) -> &str {
        match self {
            Self::Invalid { field, .. } => field,
            Self::Forbidden { .. } => "",
        }
    }
}

impl From<Refusal> for FieldError {
    fn from(refusal: Refusal) -> Self {
        Self::Invalid { field: refusal.field, value: refusal.value, detail: refusal.cause.to_string() }
    }
}

fn invalid(field: &str, value: &str, detail: impl Into<String>) -> FieldError {
    FieldError::Invalid { field: field.to_owned(), value: value.to_owned(), detail: detail.into() }
}

fn forbidden(detail: impl Into<String>) -> FieldError {
    FieldError::Forbidden { detail: detail.into() }
}

/// Reads a KubeVirt object.
///
/// # Errors
/// The field that can't be read, what it says, and what is expected.
pub fn read(object: &Value) -> Result<KubeVirt, FieldError> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let found = error.path().iter().try_fold(object, |found, step| match step {
            Segment::Map { key } => found.get(key),
            Segment::Seq { index } => found.get(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let value = found.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        invalid(&error.path().to_string(), &value.unwrap_or_default(), error.inner().to_string())
    })
}

/// A new KubeVirt object. `existing` says whether there is one anywhere in the cluster.
pub fn validate_create(new: &KubeVirt, existing: bool, operator: &Operator) -> Vec<FieldError> {
    let install_namespace = operator.namespace.as_str();
    let mut errors = Vec::new();
    if existing {
        errors.push(forbidden("Kubevirt is already created"));
    }
    if new.namespace() != install_namespace {
        errors.push(invalid(
            "metadata.namespace",
            new.namespace(),
            format!("the operator runs in namespace {install_namespace}: create the KubeVirt object there"),
        ));
    }
    errors.extend(validate_spec(new, operator));
    errors.extend(certificates::validate(new));
    errors
}

/// A changed KubeVirt object. One that is being deleted may always change: its finalizers have to go. Durations of
/// certificates that were stored when they weren't refused yet don't keep anybody from an update: what isn't safe of
/// them isn't used.
pub fn validate_update(old: &KubeVirt, new: &KubeVirt, operator: &Operator) -> Vec<FieldError> {
    if new.is_deleting() || old.spec == new.spec {
        return vec![];
    }
    let mut errors = validate_spec(new, operator);
    if old.spec.certificate_rotate_strategy != new.spec.certificate_rotate_strategy {
        errors.extend(certificates::validate(new));
    }
    errors
}

/// How many workloads there are; none when they couldn't be counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workloads {
    /// VirtualMachineInstances.
    pub instances: Option<usize>,
    /// VirtualMachines.
    pub machines: Option<usize>,
    /// VirtualMachineInstanceReplicaSets.
    pub replica_sets: Option<usize>,
}

/// A KubeVirt object that is to be deleted.
pub fn validate_delete(old: &KubeVirt, workloads: Workloads) -> Vec<FieldError> {
    let deployed = old.status.as_ref().and_then(|status| status.phase) == Some(KubeVirtPhase::Deployed);
    match old.spec.uninstall_strategy {
        None | Some(UninstallStrategy::RemoveWorkloads) => return vec![],
        Some(UninstallStrategy::BlockUninstallIfWorkloadsExist) if !deployed => return vec![],
        Some(UninstallStrategy::BlockUninstallIfWorkloadsExist) => {}
    }
    let kinds = [
        (workloads.instances, "Virtual Machine Instances"),
        (workloads.machines, "Virtual Machines"),
        (workloads.replica_sets, "Virtual Machine Instance Replica Sets"),
    ];
    let refusal = kinds.into_iter().find_map(|(count, kinds)| match count {
        Some(0) => None,
        Some(_) => Some(format!(
            "Rejecting the uninstall request, since there are still {kinds} present. Either delete all \
             KubeVirt related workloads or change the uninstall strategy before uninstalling KubeVirt."
        )),
        None => Some(format!("Rejecting the uninstall request, since {kinds} could not be counted.")),
    });
    refusal.map(forbidden).into_iter().collect()
}

fn validate_spec(kubevirt: &KubeVirt, operator: &Operator) -> Vec<FieldError> {
    let spec = &kubevirt.spec;
    let mut errors = Vec::new();
    match resolve(spec, operator) {
        Ok(_) => {}
        Err(TargetError::ImageTag { source }) => {
            errors.push(invalid("spec.imageTag", &source.tag, "expected a semantic version such as v0.18.0"));
        }
        Err(TargetError::Customize { refusals }) => errors.extend(refusals.into_iter().map(FieldError::from)),
    }
    let soak = spec.update_strategy.as_ref().and_then(|strategy| strategy.soak_seconds);
    if let Some(soak) = soak.filter(|soak| *soak > MAX_SOAK_SECONDS) {
        errors.push(invalid(
            "spec.updateStrategy.soakSeconds",
            &soak.to_string(),
            format!("expected at most {MAX_SOAK_SECONDS} seconds"),
        ));
    }
    let drain = spec.update_strategy.as_ref().and_then(|strategy| strategy.drain_seconds);
    if let Some(drain) = drain.filter(|drain| *drain > MAX_DRAIN_SECONDS) {
        errors.push(invalid(
            "spec.updateStrategy.drainSeconds",
            &drain.to_string(),
            format!("expected at most {MAX_DRAIN_SECONDS} seconds"),
        ));
    }
    if let Some(registry) = &spec.image_registry
        && (registry.chars().any(char::is_whitespace) || registry.ends_with('/'))
    {
        errors.push(invalid(
            "spec.imageRegistry",
            registry,
            "expected a registry such as quay.io/kubevirt, without a slash at its end",
        ));
    }
    for (field, policy) in [
        ("spec.imagePullPolicy", spec.image_pull_policy.as_ref()),
        (
            "spec.configuration.imagePullPolicy",
            spec.configuration.as_ref().and_then(|configuration| configuration.image_pull_policy.as_ref()),
        ),
    ] {
        if let Some(policy) = policy.filter(|policy| !PULL_POLICIES.contains(&policy.as_str())) {
            errors.push(invalid(field, policy, format!("expected one of {}", PULL_POLICIES.join(", "))));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;
    use kubevirt_types::kubevirt::KubeVirtStatus;
    use serde_json::json;

    fn object(spec: serde_json::Value) -> KubeVirt {
        serde_json::from_value(json!({
            "metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "spec": spec,
        }))
        .unwrap()
    }

    fn operator() -> Operator {
        Operator { release: Release::V0_18_0, registry: "registry".into(), namespace: "kubevirt".into() }
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn specs() {
        let cases = [
            (json!({}), vec![]),
            (json!({"imageTag": "v0.18.0", "imageRegistry": "registry:5000/kubevirt"}), vec![]),
            (
                json!({"imageTag": "foo"}),
                vec!["spec.imageTag: Invalid value: \"foo\": expected a semantic version such as v0.18.0".into()],
            ),
            (
                json!({"imageRegistry": "a b"}),
                vec![
                    "spec.imageRegistry: Invalid value: \"a b\": expected a registry such as quay.io/kubevirt, \
                     without a slash at its end"
                        .to_owned(),
                ],
            ),
            (
                json!({"imagePullPolicy": "Sometimes"}),
                vec![
                    "spec.imagePullPolicy: Invalid value: \"Sometimes\": expected one of Always, IfNotPresent, Never"
                        .into(),
                ],
            ),
            (json!({"updateStrategy": {"onFailure": "Pause", "soakSeconds": 3600}}), vec![]),
            (
                json!({"updateStrategy": {"soakSeconds": 3601}}),
                vec!["spec.updateStrategy.soakSeconds: Invalid value: \"3601\": expected at most 3600 seconds".into()],
            ),
            (json!({"updateStrategy": {"drainSeconds": 0}}), vec![]),
            (json!({"updateStrategy": {"drainSeconds": 86400}}), vec![]),
            (
                json!({"updateStrategy": {"drainSeconds": 86401}}),
                vec!["spec.updateStrategy.drainSeconds: Invalid value: \"86401\": expected at most 86400 seconds".into()],
            ),
            (
                json!({"imageTag": "v0.17.0", "customizeComponents": {"flags": {"api": {"v": "4"}}}}), vec![]
            ),
            (
                json!({"customizeComponents": {
                    "patches": [
                        {"resourceType": "Deployment", "resourceName": "virt-api", "patch": "spec: {replicas: 1}"},
                        {"resourceType": "Role", "resourceName": "*", "patch": "{}"},
                    ],
                    "flags": {"handler": {"port": "1"}},
                }}),
                vec![
                    "spec.customizeComponents.patches[0].patch: Invalid value: \"1\": changes spec.replicas of Deployment \
                     virt-api: one stops while the other serves: expected at least 2"
                        .into(),
                    "spec.customizeComponents.patches[1].resourceType: Invalid value: \"Role\": expected Deployment, \
                     DaemonSet or *"
                        .into(),
                    "spec.customizeComponents.flags.handler.port: Invalid value: \"1\": --port is set already: expected a \
                     flag that DaemonSet virt-handler doesn't have yet, such as v"
                        .into(),
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(texts(&validate_create(&object(spec.clone()), false, &operator())), want, "{spec}");
            if spec != json!({}) {
                assert_eq!(texts(&validate_update(&object(json!({})), &object(spec), &operator())), want);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            (
                json!({"updateStrategy": {"onFailure": "Maybe"}}),
                "spec.updateStrategy.onFailure: Invalid value: \"Maybe\": unknown variant `Maybe`, expected `Rollback` or \
                 `Pause`",
            ),
            (
                json!({"updateStrategy": {"soakSeconds": -1}}),
                "spec.updateStrategy.soakSeconds: Invalid value: \"-1\": invalid value: integer `-1`, expected u32",
            ),
            (
                json!({"customizeComponents": {"patches": [{"resourceName": "*", "patch": "{}"}]}}),
                "spec.customizeComponents.patches[0]: Invalid value: \"{\\\"resourceName\\\":\\\"*\\\",\\\"patch\\\":\\\"{}\\\"}\": \
                 missing field `resourceType`",
            ),
            (
                json!({"customizeComponents": {"patches": [
                    {"resourceType": "*", "resourceName": "*", "patch": "{}", "type": "smart"},
                ]}}),
                "spec.customizeComponents.patches[0].type: Invalid value: \"smart\": unknown variant `smart`, expected one \
                 of `json`, `merge`, `strategic`",
            ),
        ];
        for (spec, want) in cases {
            let whole = json!({"metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "spec": spec});
            assert_eq!(read(&whole).unwrap_err().to_string(), want);
        }
        assert_eq!(
            read(&json!({"metadata": {}, "spec": {}})).unwrap(),
            serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap()
        );
    }

    #[test]
    fn one_object_in_one_namespace() {
        assert_eq!(
            texts(&validate_create(
                &object(json!({})),
                true,
                &Operator { namespace: "other".into(), ..operator() }
            )),
            [
                "Kubevirt is already created",
                "metadata.namespace: Invalid value: \"kubevirt\": the operator runs in namespace other: create the \
                 KubeVirt object there"
            ]
        );
    }

    #[test]
    fn what_goes_away_or_stays_as_it_is_is_not_judged() {
        let old = object(json!({"imageTag": "stored-before-we-checked"}));
        let mut new = old.clone();
        new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(validate_update(&old, &new, &operator()).is_empty());
        let mut going = object(json!({"imageTag": "foo"}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(validate_update(&old, &going, &operator()).is_empty());
    }

    #[test]
    fn uninstall_is_blocked_while_workloads_exist() {
        let mut kubevirt = object(json!({"uninstallStrategy": "BlockUninstallIfWorkloadsExist"}));
        let none = Workloads { instances: Some(0), machines: Some(0), replica_sets: Some(0) };
        let some = Workloads { machines: Some(1), ..none };
        assert!(validate_delete(&kubevirt, some).is_empty(), "not deployed yet");
        kubevirt.status =
            Some(KubeVirtStatus { phase: Some(KubeVirtPhase::Deployed), ..KubeVirtStatus::default() });
        assert!(validate_delete(&kubevirt, none).is_empty());
        assert_eq!(
            texts(&validate_delete(&kubevirt, some)),
            [
                "Rejecting the uninstall request, since there are still Virtual Machines present. Either delete all \
                 KubeVirt related workloads or change the uninstall strategy before uninstalling KubeVirt."
            ]
        );
        assert_eq!(validate_delete(&kubevirt, Workloads::default()).len(), 1, "not counted is not none");
        kubevirt.spec.uninstall_strategy = Some(UninstallStrategy::RemoveWorkloads);
        assert!(validate_delete(&kubevirt, some).is_empty());
    }
}
