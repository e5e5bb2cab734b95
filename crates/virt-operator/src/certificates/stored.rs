//! What is issued and stored is seen as what it is.

use jiff::SignedDuration;
use kubevirt_observe::certificates::certificates;
use kubevirt_observe::secret::Pair;
use kubevirt_observe::x509::facts;
use kubevirt_rollout::observed::{PUBLISHED, Published};
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

use super::*;
use crate::apply::secret;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const VALID: Validity =
    Validity { not_before: Timestamp::UNIX_EPOCH, not_after: Timestamp::constant(86_400, 0) };

fn stored(name: &str, pair: &Pair) -> Value {
    let mut secret = secret::secret(&ObjectKey::namespaced("v1", "Secret", "kubevirt", name), pair, DAY);
    secret["metadata"]["uid"] = json!("u");
    secret["metadata"]["resourceVersion"] = json!("1");
    secret
}

#[test]
fn a_leaf_names_the_ca_that_signed_it_old_or_new() {
    let (old, new) = (issue_ca("a", VALID).unwrap(), issue_ca("b", VALID).unwrap());
    let leaf = Leaf { common_name: "l".into(), dns_names: vec![], usage: Usage::Server };
    let leaf = issue_leaf(&old, &leaf, VALID).unwrap();
    let secrets = [stored(labels::SECRET_CA, &new), stored("leaf", &leaf)];
    let bundle = json!({"data": {labels::CA_BUNDLE_KEY: format!("{}{}", old.certificate, new.certificate)}});

    let seen = certificates(&secrets, Some(&bundle));
    let old = facts(&old.certificate).unwrap();
    assert_eq!(seen.leaves["leaf"].content.as_ref().unwrap().signed_by, Some(old.fingerprint));
    assert_eq!(seen.bundle.len(), 2);
    let ca = seen.ca.unwrap().content.unwrap();
    assert_eq!(ca.duration.as_deref(), Some("24h0m0s"));
    assert!(ca.pem.starts_with("-----BEGIN CERTIFICATE-----"));

    let unknown = certificates(&secrets, None);
    assert_eq!(unknown.leaves["leaf"].content.as_ref().unwrap().signed_by, None);
}

#[test]
fn since_when_a_ca_is_in_the_bundle_is_read_as_it_is_written() {
    let at = |annotation: Value| {
        let map = json!({"metadata": {"annotations": {PUBLISHED: annotation}}, "data": {}});
        certificates(&[], Some(&map)).published
    };
    let published = Published { fingerprint: "ab".into(), at: Timestamp::constant(86_400, 0) };
    assert_eq!(at(json!(published.to_string())), Some(published));
    for other in [json!(null), json!("ab"), json!("ab yesterday"), json!(1)] {
        assert_eq!(at(other.clone()), None, "{other}");
    }
    assert_eq!(certificates(&[], Some(&json!({"data": {}}))).published, None, "written by an older operator");
}

#[test]
fn a_key_of_another_certificate_is_no_content() {
    let (one, other) = (issue_ca("a", VALID).unwrap(), issue_ca("b", VALID).unwrap());
    let mixed = Pair { certificate: one.certificate, key: other.key };
    let seen = certificates(&[stored(labels::SECRET_CA, &mixed)], None);
    assert_eq!(seen.ca.unwrap().content, None);
}
