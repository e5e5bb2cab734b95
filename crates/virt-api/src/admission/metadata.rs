//! Names and labels that the control plane relies on.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubevirt_types::labels;

use super::field::{Findings, Path};

/// Labels that only the control plane sets. An instance's labels go to its launcher pod, so the
/// first of them would put a launcher behind a Service of the control plane.
const RESERVED: [&str; 5] = [
    labels::APP,
    labels::CREATED_BY,
    labels::NODE_NAME,
    labels::MIGRATION_UID,
    labels::MIGRATION_TARGET_NODE,
];
/// A VM's name becomes a label's value of its launcher pod.
const MAX_NAME: usize = 63;

type Labels = BTreeMap<String, String>;

/// Refuses a name that couldn't be a label's value.
pub fn validate_name(metadata: &ObjectMeta, findings: &mut Findings) {
    if let Some(name) = &metadata.name
        && name.len() > MAX_NAME
    {
        let why = format!("must be at most {MAX_NAME} characters: it becomes a label of the launcher pod");
        findings.invalid(&Path::root("metadata").field("name"), name, why);
    }
}

/// Refuses reserved labels that aren't in `old` with the same value, and those taken from it.
pub fn validate_labels(labels: Option<&Labels>, old: Option<&Labels>, at: &Path, findings: &mut Findings) {
    let value = |labels: Option<&Labels>, key: &str| labels.and_then(|l| l.get(key).cloned());
    for key in RESERVED {
        if value(labels, key) != value(old, key) {
            findings.forbidden(&at.key(key), "this label is KubeVirt's own");
        }
    }
}

/// Whether a request comes from a component of ours, which may do what people may not.
pub fn is_component(username: &str, install_namespace: &str) -> bool {
    let accounts = ["kubevirt-apiserver", "kubevirt-controller", "kubevirt-handler", "kubevirt-operator"];
    username
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.strip_prefix(install_namespace))
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|account| accounts.contains(&account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_known_by_namespace_and_account() {
        for (user, expected) in [
            ("system:serviceaccount:kubevirt:kubevirt-controller", true),
            ("system:serviceaccount:kubevirt:kubevirt-handler", true),
            ("system:serviceaccount:kubevirt:default", false),
            ("system:serviceaccount:other:kubevirt-controller", false),
            ("system:serviceaccount:kubevirtx:kubevirt-controller", false),
            ("kubevirt-controller", false),
        ] {
            assert_eq!(is_component(user, "kubevirt"), expected, "{user}");
        }
    }

    #[test]
    fn reserved_labels_neither_come_nor_go() {
        let of = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let (none, plain) = (of(&[]), of(&[("kubevirt.io/os", "linux")]));
        let (on_a, on_b) = (of(&[(labels::NODE_NAME, "a")]), of(&[(labels::NODE_NAME, "b")]));
        for (new, old, refused) in [
            (&plain, &none, false),
            (&on_a, &none, true),
            (&none, &on_a, true),
            (&on_b, &on_a, true),
            (&on_a, &on_a, false),
        ] {
            let mut findings = Findings::default();
            validate_labels(Some(new), Some(old), &Path::root("metadata").field("labels"), &mut findings);
            assert_eq!(!findings.lines().is_empty(), refused, "{new:?} {old:?}");
        }
    }
}
