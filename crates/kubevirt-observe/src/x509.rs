//! What a stored certificate says, and whether a key is its own. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::KeyPair;
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate couldn't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// What is stored is not a PEM block with an X.509 certificate.
    #[error("no X.509 certificate in what is stored")]
    Unreadable,
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

/// Reads the first certificate of a PEM text.
pub fn facts(pem: &str) -> Result<Facts, X509Error> {
    let block =
        Pem::iter_from_buffer(pem.as_bytes()).next().and_then(Result::ok).ok_or(X509Error::Unreadable)?;
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

/// The DER form of every certificate of a bundle, for those who trust them.
pub fn bundle_der(bundle: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(bundle.as_bytes()).filter_map(Result::ok).map(|block| block.contents).collect()
}

/// Whether a private key is that of a certificate.
pub fn key_matches(facts: &Facts, key: &str) -> bool {
    KeyPair::from_pem(key).is_ok_and(|key| key.public_key_raw() == facts.public_key)
}

fn facts_of_der(der: &[u8]) -> Result<Facts, X509Error> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| X509Error::Unreadable)?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| X509Error::Unreadable);
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
