//! What is asked of a launcher, each with a limit. The answer's state is taken note of.

use std::time::Duration;

use handler_launcher_com::launcher::{
    DomainState, KillVirtualMachineRequest, PauseVirtualMachineRequest, ShutdownVirtualMachineRequest,
    SyncOptions, SyncVirtualMachineRequest, UnpauseVirtualMachineRequest,
};
use handler_launcher_com::negotiate::capability;
use kubevirt_types::VirtualMachineInstance;
use tonic::{Response, Status};

use super::link::{Links, Session};
use crate::vmi::decide::Call;

/// Calls that are answered from memory or by QEMU at once.
const SHORT: Duration = Duration::from_secs(5);
/// Calls that start something.
const LONG: Duration = Duration::from_secs(20);

/// A call that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The launcher isn't there.
    #[error("the launcher does not answer")]
    Unreachable,
    /// The launcher took too long.
    #[error("the launcher did not answer {call} in {} s", limit.as_secs())]
    Slow {
        /// What was asked.
        call: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The launcher said no.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The launcher is of a release that can't do it.
    #[error("the launcher (release {release}) can't {call}")]
    Unsupported {
        /// What was asked.
        call: &'static str,
        /// Its release.
        release: String,
    },
    /// The VMI makes no JSON.
    #[error("can't encode the VirtualMachineInstance")]
    Encode(#[from] serde_json::Error),
}

/// Carries out what was decided.
pub async fn carry_out(
    links: &Links,
    pod_uid: &str,
    call: Call,
    vmi: &VirtualMachineInstance,
    allow_emulation: bool,
) -> Result<(), CallError> {
    let mut client = session(links, pod_uid)?.launcher.client;
    let domain = match call {
        Call::Sync => {
            let options = Some(SyncOptions { allow_emulation });
            let request = SyncVirtualMachineRequest { vmi_json: serde_json::to_vec(vmi)?, options };
            within("SyncVirtualMachine", LONG, client.sync_virtual_machine(request)).await?.domain
        }
        Call::Shutdown { grace_seconds } => {
            let request = ShutdownVirtualMachineRequest { grace_period_seconds: Some(grace_seconds) };
            within("ShutdownVirtualMachine", SHORT, client.shutdown_virtual_machine(request)).await?.domain
        }
        Call::Kill => {
            let request = KillVirtualMachineRequest {};
            within("KillVirtualMachine", SHORT, client.kill_virtual_machine(request)).await?.domain
        }
    };
    links.hear(pod_uid, domain);
    Ok(())
}

/// Stops a guest's processors.
pub async fn pause(links: &Links, pod_uid: &str) -> Result<(), CallError> {
    let session = able_to_pause(links, pod_uid)?;
    let mut client = session.launcher.client;
    let call = client.pause_virtual_machine(PauseVirtualMachineRequest {});
    let domain: Option<DomainState> = within("pause", SHORT, call).await?.domain;
    links.hear(pod_uid, domain);
    Ok(())
}

/// Lets a guest's processors run on.
pub async fn unpause(links: &Links, pod_uid: &str) -> Result<(), CallError> {
    let session = able_to_pause(links, pod_uid)?;
    let mut client = session.launcher.client;
    let call = client.unpause_virtual_machine(UnpauseVirtualMachineRequest {});
    let domain: Option<DomainState> = within("unpause", SHORT, call).await?.domain;
    links.hear(pod_uid, domain);
    Ok(())
}

fn able_to_pause(links: &Links, pod_uid: &str) -> Result<Session, CallError> {
    let session = session(links, pod_uid)?;
    if session.launcher.can(capability::PAUSE) {
        return Ok(session);
    }
    Err(CallError::Unsupported { call: "pause", release: session.launcher.release })
}

fn session(links: &Links, pod_uid: &str) -> Result<Session, CallError> {
    links.session(pod_uid).ok_or(CallError::Unreachable)
}

async fn within<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::Refused { message: status.message().to_owned() }),
        Err(_) => Err(CallError::Slow { call, limit }),
    }
}
