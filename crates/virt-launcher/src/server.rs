//! `launcher-sock`: the gRPC server.
//!
//! Translates calls into wishes for [`Guest`]; keeps no state but whether somebody has been
//! told how it ended.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use handler_launcher_com::launcher::launcher_server::Launcher;
use handler_launcher_com::launcher::{
    CancelMigrationRequest, CancelMigrationResponse, DomainState, GetDomainRequest, InfoRequest,
    InfoResponse, KillVirtualMachineRequest, KillVirtualMachineResponse, MigrateVirtualMachineRequest,
    MigrateVirtualMachineResponse, PauseVirtualMachineRequest, PauseVirtualMachineResponse,
    PrepareMigrationSourceRequest, PrepareMigrationSourceResponse, PrepareMigrationTargetRequest,
    PrepareMigrationTargetResponse, ResolveMigrationRequest, ResolveMigrationResponse, ScreenshotRequest,
    ScreenshotResponse, ShutdownVirtualMachineRequest, ShutdownVirtualMachineResponse,
    SoftRebootVirtualMachineRequest, SoftRebootVirtualMachineResponse, SyncVirtualMachineRequest,
    SyncVirtualMachineResponse, UnpauseVirtualMachineRequest, UnpauseVirtualMachineResponse,
    WatchDomainRequest,
};
use handler_launcher_com::negotiate::{PROTOCOL_VERSIONS, capability};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::domain::Domain;
use crate::guest::{Guest, GuestError, ScreenshotError};
use crate::migration::MigrationError;
use crate::migration::identity::IdentityError;
use crate::qmp::QmpError;

/// The server.
#[derive(Debug)]
pub struct Server {
    guest: Guest,
    release: String,
    told: watch::Sender<bool>,
}

impl Server {
    /// Serves this guest. `told` becomes true when a reader has taken the final state.
    pub fn new(guest: Guest, release: String, told: watch::Sender<bool>) -> Self {
        Self { guest, release, told }
    }
}

/// What this launcher can do.
const CAPABILITIES: [&str; 6] = [
    capability::PAUSE,
    capability::CONSOLE_RESUME,
    capability::VNC,
    capability::LIVE_MIGRATION,
    capability::SOFT_REBOOT,
    capability::SCREENSHOT,
];

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Launcher for Server {
    async fn info(&self, _: Request<InfoRequest>) -> Answer<InfoResponse> {
        Ok(Response::new(InfoResponse {
            protocol_versions: PROTOCOL_VERSIONS.to_vec(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            release: self.release.clone(),
        }))
    }

    async fn sync_virtual_machine(
        &self,
        request: Request<SyncVirtualMachineRequest>,
    ) -> Answer<SyncVirtualMachineResponse> {
        let SyncVirtualMachineRequest { vmi_json, options } = request.into_inner();
        let allow_emulation = options.unwrap_or_default().allow_emulation;
        let domain = self.guest.start(&vmi_json, allow_emulation).map_err(status)?;
        Ok(Response::new(SyncVirtualMachineResponse { domain: Some(domain) }))
    }

    async fn shutdown_virtual_machine(
        &self,
        request: Request<ShutdownVirtualMachineRequest>,
    ) -> Answer<ShutdownVirtualMachineResponse> {
        let grace = request.into_inner().grace_period_seconds.map(Duration::from_secs);
        let domain = Some(self.guest.shutdown(grace));
        Ok(Response::new(ShutdownVirtualMachineResponse { domain }))
    }

    async fn kill_virtual_machine(
        &self,
        _: Request<KillVirtualMachineRequest>,
    ) -> Answer<KillVirtualMachineResponse> {
        Ok(Response::new(KillVirtualMachineResponse { domain: Some(self.guest.kill()) }))
    }

    async fn pause_virtual_machine(
        &self,
        _: Request<PauseVirtualMachineRequest>,
    ) -> Answer<PauseVirtualMachineResponse> {
        let domain = self.guest.pause().await.map_err(status)?;
        Ok(Response::new(PauseVirtualMachineResponse { domain: Some(domain) }))
    }

    async fn unpause_virtual_machine(
        &self,
        _: Request<UnpauseVirtualMachineRequest>,
    ) -> Answer<UnpauseVirtualMachineResponse> {
        let domain = self.guest.unpause().await.map_err(status)?;
        Ok(Response::new(UnpauseVirtualMachineResponse { domain: Some(domain) }))
    }

    async fn soft_reboot_virtual_machine(
        &self,
        request: Request<SoftRebootVirtualMachineRequest>,
    ) -> Answer<SoftRebootVirtualMachineResponse> {
        let grace = request.into_inner().grace_period_seconds.map(Duration::from_secs);
        let domain = self.guest.soft_reboot(grace).await.map_err(status)?;
        Ok(Response::new(SoftRebootVirtualMachineResponse { domain: Some(domain) }))
    }

    async fn screenshot(&self, request: Request<ScreenshotRequest>) -> Answer<ScreenshotResponse> {
        let png = self.guest.screenshot(request.into_inner().move_cursor).await.map_err(no_picture)?;
        Ok(Response::new(ScreenshotResponse { png }))
    }

    async fn get_domain(&self, _: Request<GetDomainRequest>) -> Answer<DomainState> {
        Ok(Response::new(self.guest.state()))
    }

    type WatchDomainStream = Pin<Box<dyn Stream<Item = Result<DomainState, Status>> + Send>>;

    async fn watch_domain(&self, _: Request<WatchDomainRequest>) -> Answer<Self::WatchDomainStream> {
        Ok(Response::new(Box::pin(states(self.guest.watch(), self.told.clone()))))
    }

    async fn prepare_migration_source(
        &self,
        request: Request<PrepareMigrationSourceRequest>,
    ) -> Answer<PrepareMigrationSourceResponse> {
        let uid = request.into_inner().migration_uid;
        let certificate_sha256 = self.guest.prepare_source(&uid).await.map_err(refusal)?.to_string();
        let domain = Some(self.guest.state());
        Ok(Response::new(PrepareMigrationSourceResponse { certificate_sha256, domain }))
    }

    async fn prepare_migration_target(
        &self,
        request: Request<PrepareMigrationTargetRequest>,
    ) -> Answer<PrepareMigrationTargetResponse> {
        let (port, ours) = self.guest.prepare_target(request.into_inner()).await.map_err(refusal)?;
        let (certificate_sha256, domain) = (ours.to_string(), Some(self.guest.state()));
        Ok(Response::new(PrepareMigrationTargetResponse { port: port.into(), certificate_sha256, domain }))
    }

    async fn migrate_virtual_machine(
        &self,
        request: Request<MigrateVirtualMachineRequest>,
    ) -> Answer<MigrateVirtualMachineResponse> {
        let domain = Some(self.guest.migrate(request.into_inner()).await.map_err(refusal)?);
        Ok(Response::new(MigrateVirtualMachineResponse { domain }))
    }

    async fn cancel_migration(
        &self,
        request: Request<CancelMigrationRequest>,
    ) -> Answer<CancelMigrationResponse> {
        let uid = request.into_inner().migration_uid;
        let domain = Some(self.guest.cancel_migration(&uid).await.map_err(refusal)?);
        Ok(Response::new(CancelMigrationResponse { domain }))
    }

    async fn resolve_migration(
        &self,
        request: Request<ResolveMigrationRequest>,
    ) -> Answer<ResolveMigrationResponse> {
        let request = request.into_inner();
        let verdict = request.verdict();
        let domain = self.guest.resolve_migration(&request.migration_uid, verdict).await.map_err(refusal)?;
        Ok(Response::new(ResolveMigrationResponse { domain: Some(domain) }))
    }
}

/// The state now and after every change; ends behind the final one.
fn states(
    mut domain: watch::Receiver<Domain>,
    told: watch::Sender<bool>,
) -> impl Stream<Item = Result<DomainState, Status>> {
    domain.mark_changed();
    futures::stream::unfold((domain, told), |(mut domain, told)| async move {
        // Asked for more behind the final state: the connection has taken that one.
        let seen_the_end = !domain.has_changed().unwrap_or_default() && domain.borrow().is_over();
        if seen_the_end {
            told.send_replace(true);
            return None;
        }
        domain.changed().await.ok()?;
        let state = domain.borrow_and_update().to_wire();
        Some((Ok(state), (domain, told)))
    })
}

fn status(err: GuestError) -> Status {
    let text = err.to_string();
    match err {
        GuestError::Spec(_) => Status::invalid_argument(text),
        GuestError::Accel(_) | GuestError::Phase { .. } | GuestError::Moving { .. } => {
            Status::failed_precondition(text)
        }
        GuestError::Qmp(_) | GuestError::NoEvent { .. } => Status::unavailable(text),
    }
}

fn no_picture(err: ScreenshotError) -> Status {
    let text = err.to_string();
    match err {
        // QEMU would say the same again.
        ScreenshotError::Guest(GuestError::Qmp(QmpError::Refused { .. })) | ScreenshotError::File { .. } => {
            Status::internal(text)
        }
        ScreenshotError::Guest(err) => status(err),
        ScreenshotError::NoScreen | ScreenshotError::TooLarge => Status::failed_precondition(text),
    }
}

fn refusal(err: MigrationError) -> Status {
    let text = err.to_string();
    match err {
        MigrationError::Guest(err) => status(err),
        MigrationError::Invalid { .. } | MigrationError::Identity(IdentityError::Fingerprint { .. }) => {
            Status::invalid_argument(text)
        }
        MigrationError::Unknown { .. } => Status::not_found(text),
        MigrationError::NotMigratable(_)
        | MigrationError::Phase { .. }
        | MigrationError::Busy { .. }
        | MigrationError::TooLate { .. } => Status::failed_precondition(text),
        MigrationError::NotStarted(_)
        | MigrationError::Identity(_)
        | MigrationError::Transport(_)
        | MigrationError::Qmp(_) => Status::unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use handler_launcher_com::launcher::DomainPhase;

    use super::*;
    use crate::domain::Event;

    #[tokio::test]
    async fn a_watch_begins_with_the_truth_and_ends_with_the_end() {
        let domain = watch::Sender::new(Domain::new(0));
        let (told, heard) = watch::channel(false);
        let mut states = Box::pin(states(domain.subscribe(), told));
        let mut next = async || states.next().await.map(|state| state.unwrap().phase());
        assert_eq!(next().await, Some(DomainPhase::NotStarted));
        domain.send_modify(|domain| {
            let asked = Event::Asked {
                interfaces: Vec::new(),
                emulated: true,
                incoming: false,
                memory_mib: 96,
                not_migratable: String::new(),
            };
            domain.apply(asked, 1);
        });
        assert_eq!(next().await, Some(DomainPhase::Starting));
        domain.send_modify(|domain| {
            domain.apply(Event::StartFailed { detail: "no".into() }, 2);
        });
        assert_eq!(next().await, Some(DomainPhase::Crashed));
        assert!(!*heard.borrow());
        assert_eq!(next().await, None);
        assert!(*heard.borrow());
    }
}
