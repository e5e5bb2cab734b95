//! TLS from one component to another: our certificate, their chain and their common name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::NamedServer;
use super::{CERT_FILE, KEY_FILE, TlsError, files, identity, roots};
use crate::client::install_crypto_provider;

/// Both ends are in one cluster: a peer that doesn't answer in this time is gone.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A client's TLS. Clones share it.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ArcSwapOption<ClientConfig>>,
    server_common_name: String,
}

impl ClientTls {
    /// For servers of one common name. Until [`ClientTls::set`] it connects to nobody.
    pub fn new(server_common_name: impl Into<String>) -> Self {
        install_crypto_provider();
        Self { config: Arc::default(), server_common_name: server_common_name.into() }
    }

    /// With `tls.crt` and `tls.key` of a mounted Secret and a mounted CA bundle, followed while it lives. Files may
    /// appear later.
    pub fn from_files(
        identity_dir: impl Into<PathBuf>,
        ca_bundle: impl Into<PathBuf>,
        server_common_name: impl Into<String>,
    ) -> Self {
        let tls = Self::new(server_common_name);
        let dir = identity_dir.into();
        let (weak, name) = (Arc::downgrade(&tls.config), tls.server_common_name.clone());
        files::follow(vec![dir.join(CERT_FILE), dir.join(KEY_FILE), ca_bundle.into()], move |contents| {
            let tls = Self { config: weak.upgrade()?, server_common_name: name.clone() };
            let [cert, key, ca] = contents else { return None };
            Some(tls.set(cert, key, ca))
        });
        tls
    }

    /// Takes a certificate and a CA bundle into use, for connections from now on.
    pub fn set(&self, cert_pem: &[u8], key_pem: &[u8], ca_pem: &[u8]) -> Result<(), TlsError> {
        let (chain, key) = identity(cert_pem, key_pem)?;
        let provider: Arc<CryptoProvider> =
            CryptoProvider::get_default().expect("new() has installed a provider").clone();
        let verifier = NamedServer { roots: roots(ca_pem)?, name: self.server_common_name.clone(), provider };
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.config.store(Some(Arc::new(config)));
        Ok(())
    }

    /// Whether there is a certificate to connect with.
    pub fn is_ready(&self) -> bool {
        self.config.load().is_some()
    }

    /// Connects to a server and checks that it is who it should be.
    pub async fn connect(&self, peer: SocketAddr) -> Result<TlsStream<TcpStream>, TlsError> {
        let config = self.config.load_full().ok_or(TlsError::NotReady)?;
        let connect = async {
            let stream = TcpStream::connect(peer).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(config).connect(ServerName::from(peer.ip()), stream).await
        };
        let connected = timeout(CONNECT_LIMIT, connect)
            .await
            .unwrap_or_else(|elapsed| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)));
        connected.map_err(|source| TlsError::Connect { peer: peer.to_string(), source })
    }
}
