//! What this launcher says about its part in a migration.
//!
//! Never decides anything; readers get it in `DomainState.migration`.

use std::time::Duration;

use handler_launcher_com::launcher::{MigrationPhase, MigrationRole, MigrationState};
use tokio::time::Instant;

use super::progress::Progress;
use crate::domain::Event;
use crate::guest::{Guest, now_ms};

/// Numbers alone aren't told more often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether nothing will change any more.
pub fn is_final(phase: MigrationPhase) -> bool {
    match phase {
        MigrationPhase::Completed | MigrationPhase::Failed | MigrationPhase::Cancelled => true,
        MigrationPhase::Unknown
        | MigrationPhase::Prepared
        | MigrationPhase::Connecting
        | MigrationPhase::PreCopy
        | MigrationPhase::Switchover
        | MigrationPhase::HandedOverUnconfirmed => false,
    }
}

/// The state of one migration on this side.
#[derive(Debug)]
pub struct Report {
    guest: Guest,
    state: MigrationState,
    told: Instant,
}

impl Report {
    /// Says that it is prepared.
    pub fn prepared(guest: Guest, uid: &str, role: MigrationRole) -> Self {
        let state = MigrationState {
            uid: uid.to_owned(),
            role: role.into(),
            phase: MigrationPhase::Prepared.into(),
            ..MigrationState::default()
        };
        let report = Self { guest, state, told: Instant::now() };
        report.tell();
        report
    }

    /// How far it is.
    pub fn phase(&self) -> MigrationPhase {
        self.state.phase()
    }

    /// It goes on to another phase.
    pub fn enter(&mut self, phase: MigrationPhase) {
        if self.state.started_unix_ms == 0 {
            self.state.started_unix_ms = now_ms();
        }
        self.state.set_phase(phase);
        self.tell();
    }

    /// Takes QEMU's numbers.
    pub fn progress(&mut self, progress: &Progress) {
        self.state.memory_total_bytes = progress.total;
        self.state.memory_remaining_bytes = progress.remaining;
        self.state.memory_transferred_bytes = progress.transferred;
        self.state.iterations = progress.iterations;
        self.state.dirty_bytes_per_second = progress.dirty_rate;
        self.state.downtime_ms = progress.downtime;
        self.state.throttle_percentage = progress.throttle;
        if self.told.elapsed() >= INTERVAL {
            self.told = Instant::now();
            self.tell();
        }
    }

    /// The other side can't be reached, or can again.
    pub fn unreachable(&mut self, unreachable: bool) {
        self.state.unreachable = unreachable;
        self.tell();
    }

    /// It is over.
    pub fn end(&mut self, phase: MigrationPhase, failure: &str) {
        tracing::info!(
            migration = self.state.uid,
            role = self.state.role().as_str_name(),
            phase = phase.as_str_name(),
            downtime_ms = self.state.downtime_ms,
            failure,
            "the migration is over"
        );
        self.state.ended_unix_ms = now_ms();
        self.state.unreachable = false;
        failure.clone_into(&mut self.state.failure);
        self.enter(phase);
    }

    fn tell(&self) {
        self.guest.note(Event::Migration(self.state.clone()));
    }
}
