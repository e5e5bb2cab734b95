//! What is stored of certificates, as facts without keys. Pure.

use std::collections::BTreeMap;

use kubevirt_rollout::observed::{CaCertificate, Certificate, CertificateContent, Certificates};
use kubevirt_types::labels;
use serde_json::Value;

use super::handle;
use crate::apply::secret;
use crate::certificates::{Facts, bundle_facts, facts, key_matches};

/// The facts of all certificates, from the Secrets of ours and the bundle's ConfigMap.
pub fn certificates(secrets: &[Value], bundle: Option<&Value>) -> Certificates {
    let bundle = bundle.and_then(|map| map["data"][labels::CA_BUNDLE_KEY].as_str()).unwrap_or_default();
    let bundle = bundle_facts(bundle);
    let ca_secret = secrets.iter().find(|secret| secret["metadata"]["name"] == labels::SECRET_CA);
    let ca = ca_secret.and_then(secret::pair).and_then(|pair| facts(&pair.certificate).ok());
    let signers: Vec<&Facts> = ca.iter().chain(&bundle).collect();
    let mut leaves = BTreeMap::new();
    let mut own = None;
    for secret in secrets {
        let Some(handle) = handle(secret) else { continue };
        let is_ca = handle.key.name == labels::SECRET_CA;
        let name = handle.key.name.clone();
        let certificate = Certificate { handle, content: content(secret, &signers, is_ca) };
        if is_ca {
            own = Some(certificate);
        } else {
            leaves.insert(name, certificate);
        }
    }
    let bundle = bundle
        .into_iter()
        .map(|facts| CaCertificate {
            fingerprint: facts.fingerprint,
            not_before: facts.not_before,
            not_after: facts.not_after,
            pem: facts.pem,
        })
        .collect();
    Certificates { ca: own, leaves, bundle }
}

/// What is in a Secret; none when it can't be read or its key is another certificate's.
fn content(stored: &Value, signers: &[&Facts], is_ca: bool) -> Option<CertificateContent> {
    let pair = secret::pair(stored)?;
    let facts = facts(&pair.certificate).ok().filter(|facts| key_matches(facts, &pair.key))?;
    let signer = |key_id: &String| signers.iter().find(|ca| ca.key_id.as_ref() == Some(key_id));
    Some(CertificateContent {
        signed_by: facts.signer_key_id.as_ref().and_then(signer).map(|ca| ca.fingerprint.clone()),
        fingerprint: facts.fingerprint,
        common_name: facts.common_name,
        dns_names: facts.dns_names,
        not_before: facts.not_before,
        not_after: facts.not_after,
        duration: secret::asked_duration(stored),
        pem: if is_ca { facts.pem } else { String::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{Leaf, Pair, Validity, issue_ca, issue_leaf};
    use jiff::{SignedDuration, Timestamp};
    use kubevirt_rollout::step::Usage;
    use kubevirt_types::ObjectKey;
    use serde_json::json;

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
        let bundle =
            json!({"data": {labels::CA_BUNDLE_KEY: format!("{}{}", old.certificate, new.certificate)}});

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
    fn a_key_of_another_certificate_is_no_content() {
        let (one, other) = (issue_ca("a", VALID).unwrap(), issue_ca("b", VALID).unwrap());
        let mixed = Pair { certificate: one.certificate, key: other.key };
        let seen = certificates(&[stored(labels::SECRET_CA, &mixed)], None);
        assert_eq!(seen.ca.unwrap().content, None);
    }
}
