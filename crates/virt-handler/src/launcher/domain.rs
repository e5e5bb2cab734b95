//! From a launcher's words to ours. Pure. A word that a newer launcher may say is `Unclear`.

use handler_launcher_com::launcher::{self, DomainPhase, MigrationPhase, MigrationRole};
use jiff::Timestamp;
use kubevirt_types::migration::MigrationProgress;

use crate::vmi::knowledge::{Domain, DomainInterface, DomainState, Migration, Role, Stage};

/// Why a launcher is off whose guest goes on elsewhere.
const MIGRATED: &str = "Migrated";

impl Domain {
    /// A guest as a launcher reports it that can move guests, or can't.
    pub fn reported(said: launcher::DomainState, can_move: bool) -> Self {
        let state = match DomainPhase::try_from(said.phase) {
            Ok(DomainPhase::NotStarted) => DomainState::NotStarted,
            Ok(DomainPhase::Starting) => DomainState::Starting,
            Ok(DomainPhase::Running) => DomainState::Running,
            Ok(DomainPhase::Paused) => DomainState::Paused,
            Ok(DomainPhase::ShuttingDown) => DomainState::ShuttingDown,
            Ok(DomainPhase::Shutoff) if said.reason == MIGRATED => DomainState::Moved,
            Ok(DomainPhase::Shutoff) => DomainState::Shutoff,
            Ok(DomainPhase::Crashed) => DomainState::Crashed,
            Ok(DomainPhase::Unknown) | Err(_) => DomainState::Unclear,
        };
        let interfaces =
            said.interfaces.into_iter().map(|i| DomainInterface { name: i.name, mac: i.mac }).collect();
        Self {
            state,
            reason: said.reason,
            detail: said.exit_detail,
            interfaces,
            machine_type: said.machine_type,
            can_move,
            not_migratable: said.not_migratable,
            migration: said.migration.map(|migration| Box::new(self::migration(migration))),
        }
    }
}

fn migration(said: launcher::MigrationState) -> Migration {
    let role = match MigrationRole::try_from(said.role) {
        Ok(MigrationRole::Source) => Role::Source,
        Ok(MigrationRole::Target) => Role::Target,
        Ok(MigrationRole::Unknown) | Err(_) => Role::Unclear,
    };
    let stage = match MigrationPhase::try_from(said.phase) {
        Ok(MigrationPhase::Prepared) => Stage::Prepared,
        Ok(MigrationPhase::Connecting) => Stage::Connecting,
        Ok(MigrationPhase::PreCopy) => Stage::PreCopy,
        Ok(MigrationPhase::Switchover) => Stage::Switchover,
        Ok(MigrationPhase::HandedOverUnconfirmed) => Stage::HandedOver,
        Ok(MigrationPhase::Completed) => Stage::Completed,
        Ok(MigrationPhase::Failed) => Stage::Failed,
        Ok(MigrationPhase::Cancelled) => Stage::Cancelled,
        Ok(MigrationPhase::Unknown) | Err(_) => Stage::Unclear,
    };
    Migration {
        uid: said.uid,
        role,
        stage,
        progress: MigrationProgress {
            total_bytes: said.memory_total_bytes,
            remaining_bytes: said.memory_remaining_bytes,
            transferred_bytes: said.memory_transferred_bytes,
            dirty_bytes_per_second: said.dirty_bytes_per_second,
            throttle_percentage: said.throttle_percentage,
        },
        started: time(said.started_unix_ms),
        ended: time(said.ended_unix_ms),
        downtime_ms: Some(said.downtime_ms).filter(|ms| *ms > 0),
        failure: said.failure,
        unreachable: said.unreachable,
    }
}

/// Kubernetes' times have whole seconds. A time that can't be is none.
fn time(unix_ms: i64) -> Option<Timestamp> {
    if unix_ms <= 0 {
        return None;
    }
    Timestamp::from_second(unix_ms / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_meaning_and_new_ones_mean_nothing() {
        let table = [
            (0, DomainState::Unclear),
            (1, DomainState::NotStarted),
            (2, DomainState::Starting),
            (3, DomainState::Running),
            (4, DomainState::Paused),
            (5, DomainState::ShuttingDown),
            (6, DomainState::Shutoff),
            (7, DomainState::Crashed),
            (8, DomainState::Unclear),
        ];
        for (phase, state) in table {
            let said = launcher::DomainState { phase, ..Default::default() };
            assert_eq!(Domain::reported(said, true).state, state, "{phase}");
        }
    }

    #[test]
    fn a_guest_that_moved_away_is_not_off() {
        for (reason, state) in [("Migrated", DomainState::Moved), ("Killed", DomainState::Shutoff)] {
            let said = launcher::DomainState { phase: 6, reason: reason.into(), ..Default::default() };
            assert_eq!(Domain::reported(said, true).state, state);
        }
    }

    #[test]
    fn every_word_of_a_migration_has_its_meaning_and_new_ones_mean_nothing() {
        let stages = [
            Stage::Unclear,
            Stage::Prepared,
            Stage::Connecting,
            Stage::PreCopy,
            Stage::Switchover,
            Stage::HandedOver,
            Stage::Completed,
            Stage::Failed,
            Stage::Cancelled,
            Stage::Unclear,
        ];
        for (phase, stage) in (0..).zip(stages) {
            let said = launcher::MigrationState { phase, ..Default::default() };
            assert_eq!(migration(said).stage, stage, "{phase}");
        }
        for (role, meaning) in (0..).zip([Role::Unclear, Role::Source, Role::Target, Role::Unclear]) {
            let said = launcher::MigrationState { role, ..Default::default() };
            assert_eq!(migration(said).role, meaning, "{role}");
        }
    }

    #[test]
    fn numbers_and_times_are_taken_over() {
        let said = launcher::MigrationState {
            uid: "m-1".into(),
            memory_total_bytes: 4,
            memory_remaining_bytes: 3,
            memory_transferred_bytes: 2,
            dirty_bytes_per_second: 1,
            throttle_percentage: 20,
            started_unix_ms: 1_764_000_000_999,
            downtime_ms: 31,
            failure: "late".into(),
            unreachable: true,
            ..Default::default()
        };
        let heard = migration(said);
        let progress = MigrationProgress {
            total_bytes: 4,
            remaining_bytes: 3,
            transferred_bytes: 2,
            dirty_bytes_per_second: 1,
            throttle_percentage: 20,
        };
        assert_eq!(heard.progress, progress);
        assert_eq!(heard.started, Some(Timestamp::from_second(1_764_000_000).unwrap()));
        assert_eq!((heard.ended, heard.downtime_ms), (None, Some(31)));
        assert_eq!((heard.uid.as_str(), heard.failure.as_str(), heard.unreachable), ("m-1", "late", true));
    }
}
