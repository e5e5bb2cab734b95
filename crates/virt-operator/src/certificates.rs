//! Certificates: issues the CA and the leaves. What is stored is read by `kubevirt_observe::x509`.
//!
//! Pure but for the keys' randomness: the time is an argument. *When* something is issued, and which
//! CAs a bundle trusts, the planner decides. It never touches the cluster.

use jiff::Timestamp;
use kubevirt_observe::secret::Pair;
use kubevirt_rollout::step::Usage;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

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

#[cfg(test)]
mod stored;
#[cfg(test)]
mod tests;
