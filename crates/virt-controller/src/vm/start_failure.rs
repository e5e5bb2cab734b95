//! Starts that fail one after the other, and how long the next one waits.

use std::time::Duration;

use jiff::Timestamp;
use kubevirt_types::vm::{RunStrategy, StartFailure, VirtualMachineStatus};
use kubevirt_types::{VirtualMachineInstance, VmiPhase};

use super::status::fail;

/// Reason of the VM's condition Failure while starts fail; its message outlives the instance's.
pub(super) const START_FAILED: &str = "StartFailed";
/// The longest wait.
const LIMIT_SECONDS: u64 = 300;

/// How long the next start waits after `count` failures: 10 s times its square, at most 300 s.
fn backoff(count: i32) -> Duration {
    let count = u64::from(count.unsigned_abs());
    Duration::from_secs(count.saturating_mul(count).saturating_mul(10).min(LIMIT_SECONDS))
}

/// Counts an instance that failed before its guest ran, once; forgets all when one ran, or
/// when nobody starts instances again but people.
pub(super) fn observe(
    status: &mut VirtualMachineStatus,
    strategy: RunStrategy,
    vmi: Option<&VirtualMachineInstance>,
    now: Timestamp,
) {
    match strategy {
        RunStrategy::Halted | RunStrategy::Manual | RunStrategy::Once => {
            status.start_failure = None;
            return;
        }
        RunStrategy::Always | RunStrategy::RerunOnFailure => {}
    }
    let Some(vmi) = vmi else { return };
    let Some(progress) = &vmi.status else { return };
    if progress.phase_transition_timestamps.iter().any(|reached| reached.phase == VmiPhase::Running) {
        status.start_failure = None;
        return;
    }
    // One that somebody deleted didn't fail.
    if progress.phase != VmiPhase::Failed || vmi.is_deleting() {
        return;
    }
    let before = status.start_failure.clone().unwrap_or_default();
    if before.last_failed_vmi_uid.as_deref() == Some(vmi.uid()) {
        return;
    }
    let count = before.consecutive_fail_count.saturating_add(1);
    status.start_failure = Some(StartFailure {
        consecutive_fail_count: count,
        last_failed_vmi_uid: Some(vmi.uid().to_owned()),
        retry_after_timestamp: Some(now + backoff(count)),
    });
    let ready = progress.conditions.iter().find(|condition| condition.type_ == "Ready");
    let cause = ready.and_then(|ready| ready.message.as_deref()).unwrap_or("its guest never ran");
    fail(status, START_FAILED, &format!("instance {} failed: {cause}", vmi.name()), now);
}

/// Before when the next start isn't tried.
pub(super) fn not_before(status: &VirtualMachineStatus) -> Option<Timestamp> {
    status.start_failure.as_ref()?.retry_after_timestamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_the_square_up_to_five_minutes() {
        let seconds: Vec<_> = [1, 2, 3, 5, 6, i32::MAX].map(|n| backoff(n).as_secs()).into();
        assert_eq!(seconds, [10, 40, 90, 250, 300, 300]);
    }
}
