//! What a migration may do to the guest. Never moves anything itself.

use handler_launcher_com::launcher::DomainPhase;

use super::intent::Intent;
use super::{Guest, GuestError, Start, life};
use crate::console::Console;
use crate::domain::{Domain, Event};
use crate::migration::{MigrationError, Migrations};
use crate::paths::Paths;
use crate::qemu::spec::GuestSpec;
use crate::qmp::{Qmp, QmpError};
use crate::vnc::Screen;

impl Guest {
    /// All migrations of this guest.
    pub(crate) fn migrations(&self) -> &Migrations {
        &self.0.migrations
    }

    /// The serial console.
    pub(crate) fn console(&self) -> &Console {
        &self.0.console
    }

    /// The screen.
    pub(crate) fn screen(&self) -> &Screen {
        &self.0.screen
    }

    /// Where everything is.
    pub(crate) fn paths(&self) -> &Paths {
        &self.0.settings.paths
    }

    /// QEMU's control.
    pub(crate) fn qmp(&self) -> Result<Qmp, QmpError> {
        self.0.qmp.borrow().clone().ok_or(QmpError::Closed)
    }

    /// How much memory is to be moved, in MiB, if this guest can be moved now.
    pub(crate) fn movable(&self) -> Result<u64, MigrationError> {
        let state = self.state();
        let phase = state.phase();
        if !matches!(phase, DomainPhase::Running | DomainPhase::Paused) {
            return Err(MigrationError::Phase { wish: "migrated", phase });
        }
        if !state.not_migratable.is_empty() {
            return Err(MigrationError::NotMigratable(state.not_migratable));
        }
        Ok(self.0.domain.borrow().memory_mib())
    }

    /// Starts QEMU for a guest that comes from elsewhere.
    pub(crate) fn start_incoming(
        &self,
        vmi_json: &[u8],
        allow_emulation: bool,
    ) -> Result<(), MigrationError> {
        let phase = self.0.domain.borrow().phase();
        let refused = || MigrationError::Phase { wish: "taken in", phase };
        if phase != DomainPhase::NotStarted {
            return Err(refused());
        }
        let spec = GuestSpec::parse_incoming(vmi_json, &self.0.settings.uid).map_err(GuestError::from)?;
        if let Some(reason) = spec.not_migratable() {
            return Err(MigrationError::NotMigratable(reason));
        }
        let begun = self.begin(spec, allow_emulation, Start::Incoming)?;
        begun.then_some(()).ok_or_else(refused)
    }

    /// Waits for QEMU's control; an error says why there will be none.
    pub(crate) async fn connected(&self) -> Result<Qmp, String> {
        let mut qmp = self.0.qmp.subscribe();
        tokio::select! {
            // Both senders are the guest's own; they outlive this.
            there = qmp.wait_for(Option::is_some) => {
                there.ok().and_then(|qmp| qmp.clone()).ok_or_else(|| "the guest is gone".to_owned())
            }
            () = self.over() => Err(self.state().exit_detail),
        }
    }

    /// Forbids to let the CPUs run. Nobody is doing so any more when this is done.
    pub(crate) async fn hold(&self) {
        *self.0.may_run.lock().await = false;
    }

    /// Allows it again.
    pub(crate) async fn release(&self) {
        *self.0.may_run.lock().await = true;
    }

    /// Lets the CPUs run, unless that is forbidden.
    pub(crate) async fn cont(&self, qmp: &Qmp) -> Result<(), QmpError> {
        let may_run = self.0.may_run.lock().await;
        if !*may_run {
            return Err(QmpError::Forbidden);
        }
        qmp.execute("cont").await.map(|_| ())
    }

    /// Whether somebody has paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.0.domain.borrow().phase() == DomainPhase::Paused
    }

    /// Waits for news of a migration from QEMU. One reader only.
    pub(crate) async fn migration_news(&self) {
        self.0.migration_news.notified().await;
    }

    /// Waits until there is no QEMU any more.
    pub(crate) async fn qemu_ended(&self) {
        self.wait_for(Domain::has_no_qemu).await;
    }

    /// Waits until the guest is over.
    pub(crate) async fn over(&self) {
        self.wait_for(Domain::is_over).await;
    }

    async fn wait_for(&self, what: impl Fn(&Domain) -> bool) {
        // The sender is the guest's own; it outlives this.
        drop(self.watch().wait_for(what).await);
    }

    /// Waits until somebody wants the guest to end.
    pub(crate) async fn to_end(&self) {
        drop(self.0.intent.subscribe().wait_for(|intent| *intent != Intent::Live).await);
    }

    /// Ends QEMU: the guest runs elsewhere.
    pub(crate) fn leave(&self) {
        self.note(Event::MigratedAway);
        self.wish(Intent::Kill);
    }

    /// Ends QEMU: the guest that should have come hasn't.
    pub(crate) fn discard(&self, cancelled: bool, detail: &str) {
        self.note(Event::Discarded { cancelled, detail: detail.to_owned() });
        self.wish(Intent::Kill);
    }

    /// Tells those who wait for news of a migration.
    pub(super) fn tell_migration_news(&self) {
        self.0.migration_news.notify_one();
    }

    /// Begins the guest's one life. False if it has begun already.
    pub(super) fn begin(
        &self,
        spec: GuestSpec,
        allow_emulation: bool,
        start: Start,
    ) -> Result<bool, GuestError> {
        let settings = &self.0.settings;
        let may_emulate = allow_emulation || settings.allow_emulation;
        let accel = crate::qemu::choose(crate::qemu::kvm_opens(&settings.paths.kvm), may_emulate)?;
        // Of two callers at once, one gets both the change and the console.
        let Some(carrier) = self.take_carrier() else { return Ok(false) };
        self.0.graphics.get_or_init(|| spec.graphics);
        self.note(Event::Asked {
            interfaces: spec.interfaces.clone(),
            emulated: accel == crate::qemu::Accel::Tcg,
            incoming: start == Start::Incoming,
            memory_mib: spec.memory_mib,
            not_migratable: spec.not_migratable().unwrap_or_default(),
        });
        if start == Start::Incoming {
            self.0.console.await_history();
        }
        tokio::spawn(life::live(self.clone(), spec, accel, carrier, start));
        Ok(true)
    }
}
