//! One VMI's migration, as this node's part in it sees it: what to ask of the launcher, what to write.
//!
//! Pure. Who writes which field is told with [`MigrationState`]; who may say how it ended is in
//! `docs/design/0008-migration-on-the-cluster.md`. The launchers know where the guest is. What is
//! written here follows their words, so a handler that starts at any line goes on from there.

mod answer;
mod source;
mod target;

#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod target_tests;
#[cfg(test)]
mod world_tests;

pub use answer::{Answer, answered, then};
pub use source::{give_away, left};
pub use target::take_in;

use std::time::Duration;

use jiff::Timestamp;
use kubevirt_types::migration::{
    AbortStatus, DEFAULT_COMPLETION_TIMEOUT_PER_GIB, DEFAULT_PROGRESS_TIMEOUT, MigrationConfiguration,
    MigrationState,
};
use kubevirt_types::vmi::{VirtualMachineInstance, VirtualMachineInstanceStatus};

use super::decide::Notice;

/// How soon a migration is looked at again when its launcher may have been too slow to answer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How a guest is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes per second; 0 for no limit.
    pub bandwidth: u64,
    /// Seconds for each GiB; 0 for never.
    pub completion_per_gib: u64,
    /// Seconds without progress; 0 for never.
    pub progress: u64,
    /// Slow a guest down that writes too fast.
    pub auto_converge: bool,
}

impl Limits {
    /// As they were configured when the migration began.
    pub fn of(configuration: Option<&MigrationConfiguration>) -> Self {
        let said = configuration.cloned().unwrap_or_default();
        // What is no quantity isn't admitted; a limit that nobody understands is none.
        let bandwidth = said.bandwidth_per_migration.and_then(|limit| limit.units().ok()).unwrap_or_default();
        Self {
            bandwidth: u64::try_from(bandwidth).unwrap_or_default(),
            completion_per_gib: said.completion_timeout_per_gib.unwrap_or(DEFAULT_COMPLETION_TIMEOUT_PER_GIB),
            progress: said.progress_timeout.unwrap_or(DEFAULT_PROGRESS_TIMEOUT),
            auto_converge: said.allow_auto_converge.unwrap_or_default(),
        }
    }
}

/// What has become of the target, for a source that can't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It hasn't let the guest run, and never will.
    TargetGone,
    /// The guest runs there.
    TargetRuns,
}

/// The status with another state of its migration.
fn with(
    status: Option<VirtualMachineInstanceStatus>,
    vmi: &VirtualMachineInstance,
    state: MigrationState,
) -> VirtualMachineInstanceStatus {
    let mut status = status.or_else(|| vmi.status.clone()).unwrap_or_default();
    status.migration_state = Some(state);
    status
}

/// The guest stays where it was.
fn failed(state: &MigrationState, why: &str, at: Timestamp) -> (MigrationState, Notice) {
    let mut failed = state.clone();
    failed.failed = true;
    failed.failure_reason = Some(why.to_owned());
    failed.end_timestamp = Some(at);
    if state.abort_requested {
        failed.abort_status = Some(AbortStatus::Succeeded);
    }
    let message =
        format!("VirtualMachineInstance migration uid {} failed. reason: {why}", state.migration_uid);
    (failed, Notice::warning("Migrated", message))
}
