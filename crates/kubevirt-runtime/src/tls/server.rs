//! A server's TLS: its certificate and whom it lets in, both replaceable while it serves.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;

use super::verify::NamedClients;
use super::{CERT_FILE, KEY_FILE, TlsError, files, identity, roots};
use crate::client::install_crypto_provider;

/// Which clients are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// CAs of their certificates, PEM.
    pub ca_pem: Vec<u8>,
    /// Common names that are let in; none means all.
    pub common_names: Vec<String>,
}

/// Whether clients prove who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// Who gives a certificate must give a good one. While the bundle is empty nobody is asked.
    IfGiven(Peers),
    /// Everybody must give a good one. While the bundle is empty nobody gets in.
    Required(Peers),
}

/// [`ClientAuth`] with its CA bundle in a mounted file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientAuthFiles {
    /// They are not asked.
    #[default]
    None,
    /// See [`ClientAuth::IfGiven`].
    IfGiven {
        #[allow(missing_docs)]
        bundle: PathBuf,
        /// Common names that are let in; none means all.
        common_names: Vec<String>,
    },
    /// See [`ClientAuth::Required`].
    Required {
        #[allow(missing_docs)]
        bundle: PathBuf,
        /// Common names that are let in; none means all.
        common_names: Vec<String>,
    },
}

/// A server's TLS. Clones share it. Connections that are open keep what they were opened with.
#[derive(Debug, Clone)]
pub struct ServerTls {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    material: Mutex<Material>,
    config: ArcSwapOption<ServerConfig>,
    ready: watch::Sender<bool>,
}

#[derive(Default)]
struct Material {
    identity: Option<(Vec<u8>, Vec<u8>)>,
    client_auth: ClientAuth,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("client_auth", &self.client_auth).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Without a certificate yet: until [`ServerTls::set_identity`] nobody gets in.
    pub fn new(client_auth: ClientAuth) -> Self {
        install_crypto_provider();
        let material = Material { identity: None, client_auth };
        let inner = Inner {
            material: Mutex::new(material),
            config: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// With `tls.crt` and `tls.key` of a mounted Secret and, if asked for, a mounted CA bundle, followed
    /// while the server lives. Files may appear later.
    pub fn from_files(identity_dir: impl Into<PathBuf>, clients: ClientAuthFiles) -> Self {
        let tls = match clients {
            ClientAuthFiles::None => Self::new(ClientAuth::None),
            ClientAuthFiles::IfGiven { bundle, common_names } => {
                let tls = Self::new(ClientAuth::IfGiven(Peers::default()));
                tls.follow_clients(bundle, common_names, ClientAuth::IfGiven);
                tls
            }
            ClientAuthFiles::Required { bundle, common_names } => {
                let tls = Self::new(ClientAuth::Required(Peers::default()));
                tls.follow_clients(bundle, common_names, ClientAuth::Required);
                tls
            }
        };
        tls.follow_identity(identity_dir);
        tls
    }

    /// Follows `tls.crt` and `tls.key` in a directory; they may appear later.
    pub fn follow_identity(&self, dir: impl Into<PathBuf>) {
        let dir = dir.into();
        let weak = Arc::downgrade(&self.inner);
        files::follow(vec![dir.join(CERT_FILE), dir.join(KEY_FILE)], move |contents| {
            let tls = Self { inner: weak.upgrade()? };
            let [cert, key] = contents else { return None };
            Some(tls.set_identity(cert, key))
        });
    }

    fn follow_clients(&self, bundle: PathBuf, common_names: Vec<String>, demand: fn(Peers) -> ClientAuth) {
        let weak = Arc::downgrade(&self.inner);
        files::follow(vec![bundle], move |contents| {
            let tls = Self { inner: weak.upgrade()? };
            let [ca_pem] = contents else { return None };
            let peers = Peers { ca_pem: ca_pem.clone(), common_names: common_names.clone() };
            Some(tls.set_client_auth(demand(peers)))
        });
    }

    /// Takes another certificate into use, for connections from now on.
    pub fn set_identity(&self, cert_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        self.update(|material| material.identity = Some((cert_pem.to_vec(), key_pem.to_vec())))
    }

    /// Asks for other clients, from now on.
    pub fn set_client_auth(&self, client_auth: ClientAuth) -> Result<(), TlsError> {
        self.update(|material| material.client_auth = client_auth)
    }

    /// Waits until there is a certificate to serve with.
    pub async fn ready(&self) {
        let mut ready = self.inner.ready.subscribe();
        // The sender lives as long as `self`, so this can't fail.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// What a connection that is accepted now is served with.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.inner.config.load_full()
    }

    /// Changes the material if the result can be used; otherwise all stays as it was.
    fn update(&self, change: impl FnOnce(&mut Material)) -> Result<(), TlsError> {
        let mut material = self.inner.material.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed =
            Material { identity: material.identity.clone(), client_auth: material.client_auth.clone() };
        change(&mut changed);
        let config = changed.config()?;
        *material = changed;
        self.inner.ready.send_replace(config.is_some());
        self.inner.config.store(config.map(Arc::new));
        Ok(())
    }
}

impl Material {
    /// None while something that is needed is missing.
    fn config(&self) -> Result<Option<ServerConfig>, TlsError> {
        let Some((cert_pem, key_pem)) = &self.identity else { return Ok(None) };
        let (chain, key) = identity(cert_pem, key_pem)?;
        let builder = ServerConfig::builder();
        let builder = match &self.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::IfGiven(peers) => match verifier(peers, false)? {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            },
            ClientAuth::Required(peers) => match verifier(peers, true)? {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => return Ok(None),
            },
        };
        let mut config = builder.with_single_cert(chain, key)?;
        // HTTP/2 has had its share of resets; upgrades need HTTP/1.1 anyway.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(config))
    }
}

fn verifier(peers: &Peers, required: bool) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let roots = roots(&peers.ca_pem)?;
    if roots.is_empty() {
        return Ok(None);
    }
    let builder = WebPkiClientVerifier::builder(Arc::new(roots));
    let inner = if required { builder.build()? } else { builder.allow_unauthenticated().build()? };
    Ok(Some(Arc::new(NamedClients { inner, allowed: peers.common_names.clone() })))
}
