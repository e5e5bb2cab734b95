//! `virt-launcher probe`: the readiness of this pod's launcher.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::args::ProbeArgs;

/// Less than a kubelet waits, so that it sees our words and not its own timeout.
const PATIENCE: Duration = Duration::from_millis(900);

/// Succeeds when the launcher answers `Info` and we could work with it.
pub fn main(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let socket = args.sockets_dir.join("launcher-sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, handler_launcher_com::dial(&socket))
            .await
            .with_context(|| format!("{} does not answer within {PATIENCE:?}", socket.display()))??;
        Ok(ExitCode::SUCCESS)
    })
}
