//! `virt-launcher probe`: the readiness of this pod's launcher, and which QEMU process it has.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use handler_launcher_com::launcher::GetDomainRequest;
use serde_json::json;

use crate::args::ProbeArgs;

/// Less than a kubelet waits, so that it sees our words and not its own timeout.
const PATIENCE: Duration = Duration::from_millis(900);

/// Succeeds when the launcher answers `Info` and we could work with it, and prints one line of JSON: its release,
/// QEMU's process id and when it was started. Whoever may exec into the pod can tell by that whether a guest's
/// process is still the same.
pub fn main(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let socket = args.sockets_dir.join("launcher-sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async {
            let mut launcher = handler_launcher_com::dial(&socket).await?;
            let domain = launcher.client.get_domain(GetDomainRequest {}).await?.into_inner();
            anyhow::Ok((launcher.release, domain))
        };
        let (release, domain) = tokio::time::timeout(PATIENCE, asked)
            .await
            .with_context(|| format!("{} does not answer within {PATIENCE:?}", socket.display()))??;
        println!(
            "{}",
            json!({
                "release": release,
                "qemuPid": domain.qemu_pid,
                "qemuStartedUnixMs": domain.qemu_started_unix_ms,
            })
        );
        Ok(ExitCode::SUCCESS)
    })
}
