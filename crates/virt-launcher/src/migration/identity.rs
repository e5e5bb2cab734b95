//! A launcher's identity in one migration: a key, a certificate, and its fingerprint.
//!
//! Lives in memory only, and only for the migration. Whoever has told us a fingerprint has
//! vouched for the peer; no authority is asked, no name is looked at. TLS 1.3, both sides
//! show a certificate.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Hexadecimal digits of a fingerprint.
const DIGITS: usize = 64;

/// An identity that can't be made or used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// No key or certificate.
    #[error("making a certificate for the migration: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS doesn't take it.
    #[error("setting up TLS for the migration: {0}")]
    Tls(#[from] Error),
    /// Not a fingerprint.
    #[error("{given:?} is not a SHA-256 fingerprint: {DIGITS} hexadecimal digits")]
    Fingerprint {
        /// What came.
        given: String,
    },
}

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// As the other side wrote it.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let refused = || IdentityError::Fingerprint { given: text.chars().take(DIGITS + 1).collect() };
        if text.len() != DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| refused())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.iter().fold(String::new(), |mut digits, byte| {
            // Writing to a String doesn't fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        f.write_str(&digits)
    }
}

/// A key that never leaves this process, and its certificate.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint()).finish()
    }
}

impl Identity {
    /// A new one.
    pub fn make() -> Result<Self, IdentityError> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    /// What the other side is told.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// To dial the peer.
    pub fn client(&self, peer: Fingerprint) -> Result<ClientConfig, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { peer, provider }))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key())?;
        // There is no name to tell.
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// To be dialled by the peer.
    pub fn server(&self, peer: Fingerprint) -> Result<ServerConfig, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Pinned { peer, provider }))
            .with_single_cert(vec![self.certificate.clone()], self.key())?;
        // Every connection shows its certificate.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// Lets in whoever has the one certificate, and its key.
#[derive(Debug)]
struct Pinned {
    peer: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let given = Fingerprint::of(certificate);
        if given == self.peer {
            return Ok(());
        }
        Err(Error::General(format!(
            "the peer's certificate is {given}, this migration is with {}",
            self.peer
        )))
    }

    fn proved(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// What the target hears of a source that shows one certificate and expects another.
    async fn meet(
        source: &Identity,
        source_expects: Fingerprint,
        target: &Identity,
        target_expects: Fingerprint,
    ) -> Result<[u8; 5], String> {
        let acceptor = TlsAcceptor::from(Arc::new(target.server(target_expects).unwrap()));
        let connector = TlsConnector::from(Arc::new(source.client(source_expects).unwrap()));
        let (ours, theirs) = tokio::io::duplex(4096);
        let dial = tokio::spawn(async move {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, ours).await.map_err(|err| err.to_string())?;
            stream.write_all(b"hello").await.map_err(|err| err.to_string())?;
            stream.shutdown().await.map_err(|err| err.to_string())
        });
        let mut word = [0; 5];
        let heard = async {
            let mut stream = acceptor.accept(theirs).await.map_err(|err| err.to_string())?;
            stream.read_exact(&mut word).await.map_err(|err| err.to_string())
        }
        .await;
        let said = dial.await.unwrap();
        heard.and(said).map(|()| word)
    }

    #[tokio::test]
    async fn only_the_two_of_one_migration_meet() {
        let [source, target, other] = std::array::from_fn(|_| Identity::make().unwrap());
        let (s, t, o) = (source.fingerprint(), target.fingerprint(), other.fingerprint());
        assert_eq!(meet(&source, t, &target, s).await.unwrap(), *b"hello");
        let refused = meet(&other, t, &target, s).await.unwrap_err();
        assert!(refused.contains(&o.to_string()), "{refused}");
        assert!(meet(&source, t, &other, s).await.is_err());
        // The source's certificate is no secret; its key is.
        let thief = Identity { certificate: source.certificate.clone(), key: other.key.clone_key() };
        let stolen = thief.client(t);
        assert!(stolen.is_err() || meet(&thief, t, &target, s).await.is_err());
    }

    #[tokio::test]
    async fn a_source_without_a_certificate_or_with_tls_1_2_is_refused() {
        let [source, target] = std::array::from_fn(|_| Identity::make().unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(target.server(source.fingerprint()).unwrap()));
        let provider = Arc::new(ring::default_provider());
        let peer = target.fingerprint();
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let anonymous = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned { peer, provider: Arc::clone(&provider) }))
                .with_no_client_auth();
            let (ours, theirs) = tokio::io::duplex(4096);
            let dial = tokio::spawn(async move {
                let name = ServerName::try_from("localhost").unwrap();
                // How it fails is the other side's to say.
                drop(TlsConnector::from(Arc::new(anonymous)).connect(name, ours).await);
            });
            assert!(acceptor.accept(theirs).await.is_err());
            dial.await.unwrap();
        }
    }

    #[test]
    fn fingerprints_are_read_as_they_are_written_and_keys_are_not_shown() {
        let identity = Identity::make().unwrap();
        let text = identity.fingerprint().to_string();
        assert_eq!(Fingerprint::parse(&text).unwrap(), identity.fingerprint());
        assert_eq!(Fingerprint::parse(&text.to_uppercase()).unwrap(), identity.fingerprint());
        for wrong in ["", "abc", &text[1..], &format!("{}g", &text[1..]), &"é".repeat(32)] {
            assert!(Fingerprint::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(format!("{identity:?}"), format!("Identity({:?})", identity.fingerprint()));
    }
}
