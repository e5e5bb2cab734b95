//! A launcher as virt-handler sees it: dialled, asked for its `Info`, a version agreed on.
//!
//! Never interprets a domain's state.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tonic::transport::Channel;

use crate::launcher::InfoRequest;
use crate::launcher::launcher_client::LauncherClient;
use crate::negotiate::{NegotiateError, PROTOCOL_VERSIONS, negotiate};
use crate::socket::{SocketError, connect};

/// A launcher answers from memory; one that takes longer hangs.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);

/// A launcher that can't be worked with.
#[derive(Debug, Error)]
pub enum DialError {
    /// Its socket doesn't answer.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It doesn't say what it is.
    #[error("asking for the launcher's info: {}: {}", .0.code().description(), .0.message())]
    Info(Box<tonic::Status>),
    /// It speaks other versions.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
}

/// A launcher that was dialled.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// Its calls.
    pub client: LauncherClient<Channel>,
    /// The protocol version to use.
    pub protocol: u32,
    /// What it can do; see [`crate::negotiate::capability`].
    pub capabilities: Vec<String>,
    /// The release of its image.
    pub release: String,
}

impl Launcher {
    /// Whether it can do this.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }
}

/// Dials the launcher at `path` and agrees on a protocol version.
pub async fn dial(path: &Path) -> Result<Launcher, DialError> {
    let mut client = LauncherClient::new(connect(path).await?);
    let mut ask = tonic::Request::new(InfoRequest {});
    ask.set_timeout(INFO_TIMEOUT);
    let info = client.info(ask).await.map_err(|status| DialError::Info(Box::new(status)))?.into_inner();
    let protocol = negotiate(PROTOCOL_VERSIONS, &info.protocol_versions)?;
    Ok(Launcher { client, protocol, capabilities: info.capabilities, release: info.release })
}
