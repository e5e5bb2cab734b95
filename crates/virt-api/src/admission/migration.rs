//! Which migrations are admitted.

use std::collections::BTreeMap;

use kubevirt_types::condition::ConditionStatus;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, VmiPhase};

use super::Question;
use super::field::{Findings, Path};

/// What is known of the instance that a migration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// There is none of this name.
    Missing,
    /// It has ended.
    Final,
    /// It can't be moved.
    NotMigratable {
        /// Its condition's reason.
        reason: String,
        /// Its condition's message.
        message: String,
    },
    /// It has another migration.
    Moving {
        /// That migration's uid.
        uid: String,
    },
    /// It can be moved, as far as is known.
    Ready,
}

impl Subject {
    /// What is known of `vmi`, given the migrations of its namespace.
    pub fn of(vmi: &VirtualMachineInstance, migrations: &[VirtualMachineInstanceMigration]) -> Self {
        let status = vmi.status.as_ref();
        if status.map_or(VmiPhase::Unset, |status| status.phase).is_final() {
            return Self::Final;
        }
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        if let Some(no) =
            conditions.iter().find(|c| c.type_ == "LiveMigratable" && c.status == ConditionStatus::False)
        {
            let said = |text: &Option<String>| text.clone().unwrap_or_default();
            return Self::NotMigratable { reason: said(&no.reason), message: said(&no.message) };
        }
        let in_flight = migrations
            .iter()
            .find(|migration| migration.spec.vmi_name == vmi.name() && !migration.phase().is_final());
        match in_flight {
            Some(other) => Self::Moving { uid: other.uid().to_owned() },
            None => Self::Ready,
        }
    }
}

/// Checks a migration at its creation.
pub fn validate_create(
    migration: &VirtualMachineInstanceMigration,
    subject: &Subject,
    findings: &mut Findings,
) {
    let at = Path::root("spec").field("vmiName");
    let name = migration.spec.vmi_name.as_str();
    match subject {
        _ if name.is_empty() => findings.required(&at, "the instance to move"),
        Subject::Missing => {
            findings.not_found(&at, name, "no VirtualMachineInstance of this name in the namespace");
        }
        Subject::Final => findings.invalid(&at, name, "Cannot migrate VMI in finalized state."),
        Subject::NotMigratable { reason, message } => {
            let why = format!("Cannot migrate VMI, Reason: {reason}, Message: {message}");
            findings.invalid(&at, name, why);
        }
        Subject::Moving { uid } => findings.forbidden(
            &at,
            format!(
                "in-flight migration detected. Active migration job ({uid}) is currently already in progress for VMI {name}."
            ),
        ),
        Subject::Ready => {}
    }
    validate_selector(&migration.spec.added_node_selector, findings);
}

/// The target pod gets these labels to look for: with others it would be refused, again and again.
fn validate_selector(selector: &BTreeMap<String, String>, findings: &mut Findings) {
    let at = Path::root("spec").field("addedNodeSelector");
    let shape = "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or a digit";
    for (key, value) in selector {
        let (prefix, name) =
            key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        let part = |part: &str| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            !part.is_empty() && part.bytes().all(plain) && !part.starts_with('-') && !part.ends_with('-')
        };
        let domain = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(part);
        if !is_label(name) || name.is_empty() || prefix.is_some_and(|prefix| !domain(prefix)) {
            findings.invalid(
                &at,
                key,
                format!("a label's name is a domain and '/', if it has one, and {shape}"),
            );
        }
        if !is_label(value) {
            findings.invalid(&at.key(key), value, format!("a label's value is nothing, or {shape}"));
        }
    }
}

fn is_label(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && ends(text.chars().next())
        && ends(text.chars().next_back())
}

/// Checks a change of a migration: what it moves can't change under it.
pub fn validate_update(
    question: &Question<'_, VirtualMachineInstanceMigration>,
    by_component: bool,
    findings: &mut Findings,
) {
    let Question { raw, old_raw, .. } = question;
    if !by_component && raw.get("spec") != old_raw.get("spec") {
        findings.forbidden(&Path::root("spec"), "update of Migration object's spec is restricted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn migration(name: &str, phase: &str) -> VirtualMachineInstanceMigration {
        serde_json::from_value(json!({
            "metadata": {"name": "m", "uid": "u1"}, "spec": {"vmiName": name}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn vmi(phase: &str, migratable: &str) -> VirtualMachineInstance {
        let condition =
            json!({"type": "LiveMigratable", "status": migratable, "reason": "R", "message": "why"});
        serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"domain": {}},
            "status": {"phase": phase, "conditions": [condition]},
        }))
        .unwrap()
    }

    #[test]
    fn what_can_not_move_is_refused_with_the_reason() {
        let table = [
            (vmi("Running", "True"), vec![], ""),
            (vmi("Running", "True"), vec![migration("a", "Succeeded"), migration("b", "Running")], ""),
            (
                vmi("Running", "True"),
                vec![migration("a", "")],
                "spec.vmiName: Forbidden: in-flight migration detected. Active migration job (u1) is currently already in progress for VMI a.",
            ),
            (
                vmi("Running", "False"),
                vec![],
                "spec.vmiName: Invalid value: \"a\": Cannot migrate VMI, Reason: R, Message: why",
            ),
            (
                vmi("Failed", "True"),
                vec![],
                "spec.vmiName: Invalid value: \"a\": Cannot migrate VMI in finalized state.",
            ),
        ];
        for (vmi, others, expected) in table {
            let mut findings = Findings::default();
            validate_create(&migration("a", ""), &Subject::of(&vmi, &others), &mut findings);
            assert_eq!(findings.lines().join(" "), expected);
        }
    }

    #[test]
    fn a_selector_that_no_pod_could_have_is_refused() {
        for (key, value, words) in [
            ("zone", "b", None),
            ("topology.kubernetes.io/zone", "", None),
            ("a-b.1c/zone", "b", None),
            ("", "b", Some("spec.addedNodeSelector: Invalid value: \"\"")),
            ("a/b/c", "b", Some("spec.addedNodeSelector: Invalid value: \"a/b/c\"")),
            ("/zone", "b", Some("spec.addedNodeSelector: Invalid value: \"/zone\"")),
            ("a..b/zone", "b", Some("spec.addedNodeSelector: Invalid value: \"a..b/zone\"")),
            ("-a/zone", "b", Some("spec.addedNodeSelector: Invalid value: \"-a/zone\"")),
            ("a-.b/zone", "b", Some("spec.addedNodeSelector: Invalid value: \"a-.b/zone\"")),
            ("-zone", "b", Some("spec.addedNodeSelector: Invalid value: \"-zone\"")),
            ("zone", "b c", Some("spec.addedNodeSelector[zone]: Invalid value: \"b c\"")),
            ("zone", &"b".repeat(64), Some("spec.addedNodeSelector[zone]: Invalid value")),
        ] {
            let mut migration = migration("a", "");
            migration.spec.added_node_selector = [(key.to_owned(), value.to_owned())].into();
            let mut findings = Findings::default();
            validate_create(&migration, &Subject::Ready, &mut findings);
            let said = findings.lines().join(" ");
            assert_eq!(said.is_empty(), words.is_none(), "{key}={value}: {said}");
            assert!(said.starts_with(words.unwrap_or_default()), "{said}");
        }
    }
}
