//! Follows mounted files: Secrets and ConfigMaps change under a running process.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use super::TlsError;

/// The kubelet itself takes a minute; ten seconds more are not noticed.
const POLL: Duration = Duration::from_secs(10);
/// A Secret may not be there yet, or half of it was read while it changed.
const RETRY: Duration = Duration::from_secs(1);

/// Gives `apply` the files' contents now and whenever one of them changes, for as long as it answers `Some`.
/// What it refuses is tried again; what it took before stays in force.
pub(super) fn follow<F>(paths: Vec<PathBuf>, mut apply: F)
where
    F: FnMut(&[Vec<u8>]) -> Option<Result<(), TlsError>> + Send + 'static,
{
    let mut applied = None;
    let mut step = move || -> Option<Duration> {
        let contents = match read(&paths) {
            Ok(contents) => contents,
            Err(error) => {
                tracing::debug!(%error, "waiting for certificates");
                return Some(RETRY);
            }
        };
        if applied.as_ref() == Some(&contents) {
            return Some(POLL);
        }
        match apply(&contents)? {
            Ok(()) => {
                tracing::info!(files = ?paths, "certificates loaded");
                applied = Some(contents);
                Some(POLL)
            }
            Err(error) => {
                tracing::warn!(%error, files = ?paths, "certificates can't be used");
                Some(RETRY)
            }
        }
    };
    // The first look is before we return, so that a server is ready at once where its files are there.
    let Some(mut pause) = step() else { return };
    tokio::spawn(async move {
        loop {
            sleep(pause).await;
            match step() {
                Some(next) => pause = next,
                None => return,
            }
        }
    });
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, TlsError> {
    paths
        .iter()
        .map(|path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source }))
        .collect()
}
