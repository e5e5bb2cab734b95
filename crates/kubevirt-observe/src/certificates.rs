//! What is stored of certificates, as facts without keys. Pure.

use std::collections::BTreeMap;

use kubevirt_rollout::observed::{CaCertificate, Certificate, CertificateContent, Certificates, Published};
use kubevirt_types::labels;
use serde_json::Value;

use crate::handle::handle;
use crate::secret;
use crate::x509::{Facts, bundle_facts, facts, key_matches};

/// The facts of all certificates, from the Secrets of ours and the bundle's ConfigMap.
pub fn certificates(secrets: &[Value], bundle: Option<&Value>) -> Certificates {
    let published = bundle.and_then(Published::of);
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
    Certificates { ca: own, leaves, bundle, published, unread: false }
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
