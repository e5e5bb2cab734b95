//! TLS of servers and of clients between components, with certificates that change while it runs.
//!
//! Peers are authenticated by their chain and by their common name. Nothing here issues a certificate.

mod client;
mod files;
mod server;
mod verify;

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use client::ClientTls;
pub use server::{ClientAuth, ClientAuthFiles, Peers, ServerTls};

/// File of the certificate chain in a mounted Secret.
pub const CERT_FILE: &str = "tls.crt";
/// File of the key in a mounted Secret.
pub const KEY_FILE: &str = "tls.key";

/// The certificate with which a peer proved who it is. In the extensions of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its subject's common name.
    pub common_name: String,
    /// All of it.
    pub der: Vec<u8>,
}

/// What went wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read (yet).
    #[error("can't read {}", path.display())]
    Read {
        #[allow(missing_docs)]
        path: PathBuf,
        #[allow(missing_docs)]
        source: std::io::Error,
    },
    /// A certificate or key isn't PEM.
    #[error("{what} is not PEM")]
    Pem {
        /// Which one.
        what: &'static str,
        #[allow(missing_docs)]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate, key and CA make no configuration.
    #[error("certificate, key and CA don't fit")]
    Config(#[from] rustls::Error),
    /// The bundle makes no verifier.
    #[error("CA bundle can't verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// There is no certificate yet.
    #[error("no certificate yet")]
    NotReady,
    /// The peer can't be reached, or one side didn't accept the other.
    #[error("can't connect to {peer}")]
    Connect {
        #[allow(missing_docs)]
        peer: String,
        #[allow(missing_docs)]
        source: std::io::Error,
    },
}

/// A certificate chain and its key, parsed.
fn identity(
    cert_pem: &[u8],
    key_pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what: "certificate", source })?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| TlsError::Pem { what: "key", source })?;
    Ok((chain, key))
}

/// The roots of a CA bundle.
fn roots(ca_pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        store.add(certificate.map_err(|source| TlsError::Pem { what: "CA bundle", source })?)?;
    }
    Ok(store)
}

/// The subject's common name of a certificate.
fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// What handlers are told of a verified certificate. None for one without a common name, which then counts as no one.
pub(crate) fn peer_certificate(der: &CertificateDer<'_>) -> Option<PeerCertificate> {
    Some(PeerCertificate { common_name: common_name(der)?, der: der.to_vec() })
}
