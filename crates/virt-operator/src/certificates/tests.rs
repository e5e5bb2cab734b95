//! Certificates that verify, bundles that merge, and reissues.

use std::sync::Arc;

use kubevirt_observe::x509::{bundle_facts, facts, key_matches};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, SignatureScheme};

use super::*;

const DAY: i64 = 24 * 3600;
const WEEK: i64 = 7 * DAY;

/// Valid from a little before a second on for so many seconds.
fn valid(from: i64, seconds: i64) -> Validity {
    Validity { not_before: at(from - 300), not_after: at(from + seconds) }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn server() -> Leaf {
    Leaf {
        common_name: "virt-api.kubevirt.pod.cluster.local".into(),
        dns_names: vec!["virt-api.kubevirt.svc".into(), "virt-api".into()],
        usage: Usage::Server,
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(bundle: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    Arc::new(roots)
}

fn unix(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.as_second().unsigned_abs()))
}

fn serves(bundle: &str, leaf: &Pair, name: &str, now: Timestamp) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(bundle), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&der(&leaf.certificate), &[], &name, &[], unix(now)).is_ok()
}

fn may_call(bundle: &str, leaf: &Pair, now: Timestamp) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(bundle), provider).build().unwrap();
    verifier.verify_client_cert(&der(&leaf.certificate), &[], unix(now)).is_ok()
}

#[test]
fn a_leaf_is_trusted_for_its_names_its_use_and_its_time() {
    let ca = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    let leaf = issue_leaf(&ca, &server(), valid(0, DAY)).unwrap();
    assert!(serves(&ca.certificate, &leaf, "virt-api.kubevirt.svc", at(60)));
    assert!(serves(&ca.certificate, &leaf, "virt-api", at(60)));
    assert!(serves(&ca.certificate, &leaf, "virt-api", at(-60)), "a peer's clock may be behind");
    assert!(!serves(&ca.certificate, &leaf, "other.kubevirt.svc", at(60)));
    assert!(!serves(&ca.certificate, &leaf, "virt-api.kubevirt.svc", at(DAY + 60)));
    assert!(!may_call(&ca.certificate, &leaf, at(60)), "a server's certificate is no client's");
    let other = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    assert!(!serves(&other.certificate, &leaf, "virt-api.kubevirt.svc", at(60)));
}

#[test]
fn a_clients_leaf_may_call_and_not_serve() {
    let ca = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    let client = Leaf {
        common_name: "kubevirt.io:system:client:virt-handler".into(),
        dns_names: vec![],
        usage: Usage::Client,
    };
    let leaf = issue_leaf(&ca, &client, valid(0, DAY)).unwrap();
    assert!(may_call(&ca.certificate, &leaf, at(60)));
    assert_eq!(facts(&leaf.certificate).unwrap().common_name, client.common_name);
}

#[test]
fn the_key_is_that_of_the_certificate() {
    let ca = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    let leaf = issue_leaf(&ca, &server(), valid(0, DAY)).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    assert!(signer.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
    let certified = rustls::sign::CertifiedKey::new(vec![der(&leaf.certificate)], signer);
    certified.keys_match().unwrap();
}

#[test]
fn facts_tell_who_signed_for_whom_and_until_when() {
    let ca = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    let leaf = issue_leaf(&ca, &server(), valid(0, DAY)).unwrap();
    let (ca, leaf) = (facts(&ca.certificate).unwrap(), facts(&leaf.certificate).unwrap());
    assert_eq!(ca.not_after, at(WEEK));
    assert_eq!(leaf.not_after, at(DAY));
    assert!(leaf.signer_key_id.is_some());
    assert_eq!(leaf.signer_key_id, ca.key_id);
    assert_eq!(leaf.dns_names, server().dns_names);
    assert_eq!(leaf.fingerprint.len(), 64);
    assert!(facts("nothing").is_err());
}

#[test]
fn a_bundle_of_two_generations_trusts_the_leaves_of_both() {
    let old = issue_ca("kubevirt.io", valid(0, DAY)).unwrap();
    let new = issue_ca("kubevirt.io", valid(100, WEEK)).unwrap();
    let facts = bundle_facts(&format!("{}{}", old.certificate, new.certificate));
    assert_eq!(
        facts.iter().map(|f| f.not_before).collect::<Vec<_>>(),
        [at(100 - 300), at(-300)],
        "newest first"
    );
    let bundle: String = facts.iter().map(|f| f.pem.as_str()).collect();
    for ca in [&old, &new] {
        let leaf = issue_leaf(ca, &server(), valid(0, DAY)).unwrap();
        assert!(serves(&bundle, &leaf, "virt-api.kubevirt.svc", at(200)));
    }
    assert_eq!(bundle_facts(&bundle), facts, "read and written again it is the same");
    assert!(bundle_facts("not a bundle").is_empty());
}

#[test]
fn a_key_belongs_to_one_certificate() {
    let one = issue_ca("kubevirt.io", valid(0, DAY)).unwrap();
    let other = issue_ca("kubevirt.io", valid(0, DAY)).unwrap();
    let facts = facts(&one.certificate).unwrap();
    assert!(key_matches(&facts, &one.key));
    assert!(!key_matches(&facts, &other.key));
    assert!(!key_matches(&facts, "no key"));
}

#[test]
fn a_key_is_never_printed() {
    let ca = issue_ca("kubevirt.io", valid(0, WEEK)).unwrap();
    assert!(!format!("{ca:?}").contains("PRIVATE"));
}
