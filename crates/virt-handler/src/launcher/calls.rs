//! What is asked of a launcher, each with a limit. The answer's state is taken note of.

use std::time::Duration;

use handler_launcher_com::MAX_SCREENSHOT_MESSAGE;
use handler_launcher_com::launcher::{
    CancelMigrationRequest, DomainState, GetDomainRequest, KillVirtualMachineRequest,
    MigrateVirtualMachineRequest, MigrationOptions, MigrationVerdict, PauseVirtualMachineRequest,
    PrepareMigrationSourceRequest, PrepareMigrationTargetRequest, ResolveMigrationRequest, ScreenshotRequest,
    ShutdownVirtualMachineRequest, SoftRebootVirtualMachineRequest, SyncOptions, SyncVirtualMachineRequest,
    UnpauseVirtualMachineRequest,
};
use handler_launcher_com::negotiate::capability;
use kubevirt_types::VirtualMachineInstance;
use tokio::sync::Semaphore;
use tonic::{Code, Response, Status};

use super::link::{Links, Session};
use crate::vmi::decide::Call;
use crate::vmi::migration::{Answer, Verdict};

/// Calls that are answered from memory or by QEMU at once.
const SHORT: Duration = Duration::from_secs(5);
/// Calls that start something.
const LONG: Duration = Duration::from_secs(20);

/// A picture of a screen: QEMU packs it, on a processor that the guest may be using.
const PICTURE: Duration = Duration::from_secs(7);
/// A picture is held whole: this process has better things to do with its memory.
static PICTURES_AT_A_TIME: Semaphore = Semaphore::const_new(2);

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
        /// Whether it will say the same again.
        lasting: bool,
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

/// Carries out what was decided. A lasting refusal of what belongs to a migration is an answer.
pub async fn carry_out(
    links: &Links,
    pod_uid: &str,
    call: &Call,
    vmi: &VirtualMachineInstance,
    allow_emulation: bool,
) -> Result<Answer, CallError> {
    let mut client = session(links, pod_uid)?.launcher.client;
    let options = Some(SyncOptions { allow_emulation });
    let (answer, domain) = match call {
        Call::Sync => {
            let request = SyncVirtualMachineRequest { vmi_json: serde_json::to_vec(vmi)?, options };
            let answer = within("SyncVirtualMachine", LONG, client.sync_virtual_machine(request)).await?;
            (Answer::Done, answer.domain)
        }
        Call::Shutdown { grace_seconds } => {
            let request = ShutdownVirtualMachineRequest { grace_period_seconds: Some(*grace_seconds) };
            let answer =
                within("ShutdownVirtualMachine", SHORT, client.shutdown_virtual_machine(request)).await?;
            (Answer::Done, answer.domain)
        }
        Call::Kill | Call::Discard { .. } => {
            let request = KillVirtualMachineRequest {};
            let answer = within("KillVirtualMachine", SHORT, client.kill_virtual_machine(request)).await?;
            (Answer::Done, answer.domain)
        }
        Call::PrepareSource { uid } => {
            let request = PrepareMigrationSourceRequest { migration_uid: uid.clone() };
            let asked = within("PrepareMigrationSource", SHORT, client.prepare_migration_source(request));
            match unless_never(asked.await)? {
                Ok(answer) => (Answer::Source { certificate: answer.certificate_sha256 }, answer.domain),
                Err(never) => (never, None),
            }
        }
        Call::PrepareTarget { uid, source_certificate } => {
            let request = PrepareMigrationTargetRequest {
                vmi_json: serde_json::to_vec(vmi)?,
                options,
                migration_uid: uid.clone(),
                source_certificate_sha256: source_certificate.clone(),
            };
            let asked = within("PrepareMigrationTarget", LONG, client.prepare_migration_target(request));
            match unless_never(asked.await)? {
                Ok(answer) => {
                    let (port, certificate) = (answer.port, answer.certificate_sha256);
                    (Answer::Target { port, certificate }, answer.domain)
                }
                Err(never) => (never, None),
            }
        }
        Call::Migrate { uid, address, port, certificate, limits } => {
            let request = MigrateVirtualMachineRequest {
                migration_uid: uid.clone(),
                target_address: address.clone(),
                target_port: *port,
                target_certificate_sha256: certificate.clone(),
                options: Some(MigrationOptions {
                    bandwidth_bytes_per_second: limits.bandwidth,
                    completion_timeout_seconds_per_gib: Some(limits.completion_per_gib),
                    progress_timeout_seconds: Some(limits.progress),
                    allow_auto_converge: limits.auto_converge,
                    downtime_limit_ms: None,
                }),
            };
            let asked = within("MigrateVirtualMachine", SHORT, client.migrate_virtual_machine(request));
            match unless_never(asked.await)? {
                Ok(answer) => (Answer::Done, answer.domain),
                Err(never) => (never, None),
            }
        }
        Call::Cancel { uid } => {
            let request = CancelMigrationRequest { migration_uid: uid.clone() };
            let asked = within("CancelMigration", SHORT, client.cancel_migration(request));
            match unless_never(asked.await)? {
                Ok(answer) => (Answer::Done, answer.domain),
                Err(never) => (never, None),
            }
        }
        Call::Resolve { uid, verdict } => {
            let verdict = match verdict {
                Verdict::TargetGone => MigrationVerdict::TargetGone,
                Verdict::TargetRuns => MigrationVerdict::TargetRuns,
            };
            let request = ResolveMigrationRequest { migration_uid: uid.clone(), verdict: verdict.into() };
            let asked = within("ResolveMigration", SHORT, client.resolve_migration(request));
            (Answer::Done, asked.await?.domain)
        }
    };
    links.hear(pod_uid, domain);
    Ok(answer)
}

/// Asks a launcher for the state of its guest now.
pub async fn look(links: &Links, pod_uid: &str) -> Result<(), CallError> {
    let mut client = session(links, pod_uid)?.launcher.client;
    let domain = within("GetDomain", SHORT, client.get_domain(GetDomainRequest {})).await?;
    links.hear(pod_uid, Some(domain));
    Ok(())
}

/// Takes a lasting refusal for an answer.
fn unless_never<T>(outcome: Result<T, CallError>) -> Result<Result<T, Answer>, CallError> {
    match outcome {
        Ok(answer) => Ok(Ok(answer)),
        Err(CallError::Refused { message, lasting: true }) => Ok(Err(Answer::Never { why: message })),
        Err(error) => Err(error),
    }
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

/// Presses a guest's power button; it is started again when it has powered itself off.
pub async fn soft_reboot(links: &Links, pod_uid: &str) -> Result<(), CallError> {
    let session = session(links, pod_uid)?;
    if !session.launcher.can(capability::SOFT_REBOOT) {
        return Err(CallError::Unsupported { call: "soft-reboot", release: session.launcher.release });
    }
    let mut client = session.launcher.client;
    let call = client.soft_reboot_virtual_machine(SoftRebootVirtualMachineRequest::default());
    let domain: Option<DomainState> = within("soft-reboot", SHORT, call).await?.domain;
    links.hear(pod_uid, domain);
    Ok(())
}

/// Takes a picture of a guest's screen, as a PNG. `move_cursor` moves the pointer before, which wakes a guest that has
/// turned its screen off.
pub async fn screenshot(links: &Links, pod_uid: &str, move_cursor: bool) -> Result<Vec<u8>, CallError> {
    let session = session(links, pod_uid)?;
    if !session.launcher.can(capability::SCREENSHOT) {
        return Err(CallError::Unsupported { call: "take a screenshot", release: session.launcher.release });
    }
    let mut client = session.launcher.client.max_decoding_message_size(MAX_SCREENSHOT_MESSAGE);
    let taken = async {
        let _turn = PICTURES_AT_A_TIME.acquire().await.expect("this semaphore is never closed");
        client.screenshot(ScreenshotRequest { move_cursor }).await
    };
    Ok(within("screenshot", PICTURE, taken).await?.png)
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
        Ok(Err(status)) => {
            let lasting = matches!(
                status.code(),
                Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented
            );
            Err(CallError::Refused { message: status.message().to_owned(), lasting })
        }
        Err(_) => Err(CallError::Slow { call, limit }),
    }
}
