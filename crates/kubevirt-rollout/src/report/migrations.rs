//! Live migrations that were in flight while the control plane was updated.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubevirt_types::VirtualMachineInstanceMigration;
use kubevirt_types::migration::MigrationPhase;
use serde::{Deserialize, Serialize};

/// Failures that are listed; all are counted.
const MAX_FAILURES: usize = 20;
/// Migrations that are told from one another; more aren't counted. Two hundred nodes that are drained have so many.
const MAX_COUNTED: usize = 10_000;
/// So much of a uid tells ten thousand migrations from one another.
const UID_DIGITS: usize = 13;

/// A migration, as far as a report cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its uid.
    pub uid: String,
    /// Its namespace and name.
    pub name: String,
    /// What has become of it; none while it is in flight.
    pub fate: Option<Fate>,
    /// How long the guest stood, as QEMU says.
    pub downtime_milliseconds: Option<u64>,
}

/// How a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// When.
    pub at: Timestamp,
    /// Why the guest has not moved; none of one that has.
    pub failed: Option<String>,
}

impl Moved {
    /// Reads it from the object.
    pub fn of(migration: &VirtualMachineInstanceMigration) -> Self {
        let status = migration.status.clone().unwrap_or_default();
        let state = status.migration_state.unwrap_or_default();
        let reached = status
            .phase_transition_timestamps
            .iter()
            .find(|reached| reached.phase == status.phase)
            .map(|reached| reached.phase_transition_timestamp);
        let made = migration.metadata.creation_timestamp.as_ref().map(|at| at.0);
        // without any word of when, it was when the migration was made: as early as it can have been
        let at = reached.or(state.end_timestamp).or(made).unwrap_or_default();
        let why = || state.failure_reason.clone().unwrap_or_else(|| "nobody said why".to_owned());
        let fate = status
            .phase
            .is_final()
            .then(|| Fate { at, failed: (status.phase == MigrationPhase::Failed).then(why) });
        Self {
            uid: migration.uid().to_owned(),
            name: format!("{}/{}", migration.namespace(), migration.name()),
            fate,
            downtime_milliseconds: state.downtime_milliseconds,
        }
    }
}

/// Migrations during an update. Source: the VirtualMachineInstanceMigration objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Migrations {
    /// In flight when somebody looked last. Those that are when all is over were carried through it.
    pub in_flight: u64,
    /// Those that were in flight at some time and whose guests have moved.
    pub completed: u64,
    /// Those whose guests haven't.
    pub failed: u64,
    /// The longest time that one of the guests that moved stood, as its QEMU says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_downtime_milliseconds: Option<u64>,
    /// The first failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedMigration>,
    /// Beginnings of the uids of those that are counted; none when all is over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub counted: BTreeSet<String>,
}

/// A migration that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedMigration {
    /// Its namespace and name.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

impl Migrations {
    /// Counts those that have ended since the start and weren't counted yet.
    pub(super) fn fold(&mut self, all: &[Moved], started: Timestamp) {
        self.in_flight = 0;
        for moved in all {
            let Some(fate) = &moved.fate else {
                self.in_flight += 1;
                continue;
            };
            let digits: String = moved.uid.chars().take(UID_DIGITS).collect();
            if fate.at < started || self.counted.len() >= MAX_COUNTED || !self.counted.insert(digits) {
                continue;
            }
            match &fate.failed {
                None => {
                    self.completed += 1;
                    self.longest_downtime_milliseconds =
                        self.longest_downtime_milliseconds.max(moved.downtime_milliseconds);
                }
                Some(why) => {
                    self.failed += 1;
                    if self.failures.len() < MAX_FAILURES {
                        let (name, why) = (moved.name.clone(), why.clone());
                        self.failures.push(FailedMigration { name, at: fate.at, why });
                    }
                }
            }
        }
    }

    /// All that were in flight at some time. A slow one that outlasts the update is one of them: the update met it, and
    /// it goes on.
    pub fn all(&self) -> u64 {
        self.completed + self.failed + self.in_flight
    }

    /// Nobody counts any more.
    pub(super) fn end(&mut self) {
        self.counted.clear();
    }
}
