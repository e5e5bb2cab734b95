//! Certificates: issues the CA and the leaves, and reads what is stored.
//!
//! Pure but for the keys' randomness: the time is an argument. *When* something is issued, and which
//! CAs a bundle trusts, the planner decides. It never touches the cluster.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kubevirt_rollout::step::Usage;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate couldn't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key couldn't be made or a certificate couldn't be signed.
    #[error("issuing the certificate of {subject}")]
    Issue {
        #[allow(missing_docs)]
        subject: String,
        #[source]
        #[allow(missing_docs)]
        source: rcgen::Error,
    },
    /// The stored CA is not a certificate and key that can sign.
    #[error("reading the CA's certificate and key")]
    ReadCa(#[source] rcgen::Error),
    /// The validity asked for is outside of what a calendar can say.
    #[error("the certificate of {subject} can't be valid until {seconds} s after 1970")]
    Validity {
        #[allow(missing_docs)]
        subject: String,
        #[allow(missing_docs)]
        seconds: i64,
    },
    /// What is stored is not a PEM block with an X.509 certificate.
    #[error("no X.509 certificate in what is stored")]
    Unreadable,
}

/// A certificate and its private key, both PEM. Its `Debug` form doesn't show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// What a leaf certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its common name, which peers check.
    pub common_name: String,
    /// DNS names that it serves; empty for a client's.
    pub dns_names: Vec<String>,
    /// What it may be used for.
    pub usage: Usage,
}

/// What a stored certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Hex SHA-256 of its DER form.
    pub fingerprint: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// The identifier of its own key, in hex; leaves don't have one.
    pub key_id: Option<String>,
    /// The identifier of the key that signed it, in hex.
    pub signer_key_id: Option<String>,
    /// Its public key as the certificate has it.
    pub public_key: Vec<u8>,
    /// Its common name.
    pub common_name: String,
    /// The DNS names it is valid for.
    pub dns_names: Vec<String>,
    /// The certificate as PEM, always written in the same way.
    pub pem: String,
}

/// Makes a new self-signed CA.
pub fn issue_ca(common_name: &str, valid: Validity) -> Result<Pair, CertificateError> {
    let mut params = params(common_name, valid)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let issue = |source| CertificateError::Issue { subject: common_name.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(issue)?;
    let certificate = params.self_signed(&key).map_err(issue)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Makes a leaf that `ca` signs, with a key of its own.
pub fn issue_leaf(ca: &Pair, leaf: &Leaf, valid: Validity) -> Result<Pair, CertificateError> {
    let issue = |source| CertificateError::Issue { subject: leaf.common_name.clone(), source };
    let ca_key = KeyPair::from_pem(&ca.key).map_err(CertificateError::ReadCa)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(CertificateError::ReadCa)?;
    let mut params = params(&leaf.common_name, valid)?;
    params.subject_alt_names = leaf
        .dns_names
        .iter()
        .map(|name| name.as_str().try_into().map(SanType::DnsName))
        .collect::<Result<_, _>>()
        .map_err(issue)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match leaf.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(issue)?;
    let certificate = params.signed_by(&key, &issuer).map_err(issue)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// What both kinds have in common: the name and the validity.
fn params(subject: &str, valid: Validity) -> Result<CertificateParams, CertificateError> {
    let at = |time: Timestamp| {
        let seconds = time.as_second();
        time::OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| CertificateError::Validity { subject: subject.to_owned(), seconds })
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = at(valid.not_before)?;
    params.not_after = at(valid.not_after)?;
    Ok(params)
}

/// Reads the first certificate of a PEM text.
pub fn facts(pem: &str) -> Result<Facts, CertificateError> {
    let block = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .and_then(Result::ok)
        .ok_or(CertificateError::Unreadable)?;
    facts_of_der(&block.contents)
}

/// The facts of every readable certificate of a bundle, newest first.
pub fn bundle_facts(bundle: &str) -> Vec<Facts> {
    let mut all: Vec<_> = Pem::iter_from_buffer(bundle.as_bytes())
        .filter_map(Result::ok)
        .filter_map(|block| facts_of_der(&block.contents).ok())
        .collect();
    all.sort_by_key(|facts| std::cmp::Reverse(facts.not_before));
    all
}

/// Whether a private key is that of a certificate.
pub fn key_matches(facts: &Facts, key: &str) -> bool {
    KeyPair::from_pem(key).is_ok_and(|key| key.public_key_raw() == facts.public_key)
}

fn facts_of_der(der: &[u8]) -> Result<Facts, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| CertificateError::Unreadable);
    let mut facts = Facts {
        fingerprint: hex(&Sha256::digest(der)),
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
        key_id: None,
        signer_key_id: None,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        common_name: certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        dns_names: Vec::new(),
        pem: encode(der),
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => facts.key_id = Some(hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                facts.signer_key_id = id.key_identifier.as_ref().map(|id| hex(id.0));
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                facts.dns_names = names.general_names.iter().filter_map(dns_name).collect();
            }
            _ => {}
        }
    }
    Ok(facts)
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One certificate as PEM, always written in the same way, so that a bundle that holds the same
/// certificates is the same text.
fn encode(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests;
