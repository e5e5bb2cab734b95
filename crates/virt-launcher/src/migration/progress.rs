//! How far QEMU's migration is, and when it takes too long. Pure.
//!
//! Never asks QEMU: what `query-migrate` says comes in as JSON, time as an argument.

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

/// QEMU's unit of memory here.
const GIB: u64 = 1 << 30;

/// What QEMU is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nothing, or nothing yet.
    #[default]
    None,
    /// Memory is copied.
    Active,
    /// The guest stands, and QEMU waits for our word.
    PreSwitchover,
    /// The last part is copied.
    Device,
    /// All is copied.
    Completed,
    /// It was told to stop, and is doing so.
    Cancelling,
    /// It has stopped as it was told.
    Cancelled,
    /// It has stopped by itself.
    Failed,
}

/// An answer to `query-migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What QEMU is at.
    pub stage: Stage,
    /// Bytes of memory.
    pub total: u64,
    /// Bytes to copy.
    pub remaining: u64,
    /// Bytes copied.
    pub transferred: u64,
    /// Bytes copied per second just now; 0 while QEMU doesn't know.
    pub speed: u64,
    /// Rounds through the memory.
    pub iterations: u64,
    /// Bytes written anew per second.
    pub dirty_rate: u64,
    /// How long the guest stood, in milliseconds.
    pub downtime: u64,
    /// By how much it is slowed down.
    pub throttle: u32,
    /// What went wrong.
    pub failure: Option<String>,
}

impl Progress {
    /// Reads QEMU's answer; what a QEMU doesn't say is 0.
    pub fn read(answer: &Value) -> Self {
        let ram = &answer["ram"];
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        Self {
            stage: stage(answer["status"].as_str().unwrap_or_default()),
            total: number(&ram["total"]),
            remaining: number(&ram["remaining"]),
            transferred: number(&ram["transferred"]),
            // It says megabits.
            speed: (ram["mbps"].as_f64().unwrap_or_default().max(0.0) * 125_000.0) as u64,
            iterations: number(&ram["dirty-sync-count"]),
            dirty_rate: number(&ram["dirty-pages-rate"]).saturating_mul(number(&ram["page-size"])),
            downtime: number(&answer["downtime"]),
            throttle: u32::try_from(number(&answer["cpu-throttle-percentage"])).unwrap_or_default(),
            failure: answer["error-desc"].as_str().map(str::to_owned),
        }
    }
}

fn stage(status: &str) -> Stage {
    match status {
        "setup" | "active" => Stage::Active,
        "pre-switchover" => Stage::PreSwitchover,
        "device" => Stage::Device,
        "completed" => Stage::Completed,
        "cancelling" => Stage::Cancelling,
        "cancelled" => Stage::Cancelled,
        "failed" => Stage::Failed,
        _ => Stage::None,
    }
}

/// How long a migration may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Altogether.
    pub completion: Option<Duration>,
    /// Without getting nearer to its end.
    pub progress: Option<Duration>,
}

impl Limits {
    /// From seconds per GiB of memory, and seconds; 0 is no limit.
    pub fn new(seconds_per_gib: u64, memory: u64, progress_seconds: u64) -> Self {
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        Self {
            completion: limit(seconds_per_gib.saturating_mul(memory.div_ceil(GIB).max(1))),
            progress: limit(progress_seconds),
        }
    }
}

/// A migration that takes too long. The words are KubeVirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TooLong {
    /// Altogether.
    #[error("Live migration is not completed after {0} seconds and has been aborted")]
    Completion(u64),
    /// Without getting nearer to its end.
    #[error("Live migration stuck for {0} seconds and has been aborted")]
    Progress(u64),
}

/// Watches a migration's pace.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    limits: Limits,
    began: Instant,
    least: u64,
    nearer: Instant,
}

impl Pace {
    /// Begins now.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, least: u64::MAX, nearer: now }
    }

    /// Looks at what remains.
    pub fn check(&mut self, remaining: u64, now: Instant) -> Result<(), TooLong> {
        if remaining < self.least {
            (self.least, self.nearer) = (remaining, now);
        }
        let (whole, stuck) = (now - self.began, now - self.nearer);
        match (self.limits.completion, self.limits.progress) {
            (Some(limit), _) if whole > limit => Err(TooLong::Completion(whole.as_secs())),
            (_, Some(limit)) if stuck > limit => Err(TooLong::Progress(stuck.as_secs())),
            _ => Ok(()),
        }
    }
}

/// A guest that will stand within this time stands soon.
const SOON: Duration = Duration::from_secs(2);
/// Nobody at a screen waits longer for a move that always seems to be over soon.
const HUSH_LIMIT: Duration = Duration::from_secs(3);
/// Before somebody at a screen waits again.
const HUSH_REST: Duration = Duration::from_secs(1);

/// Whether what is done at the guest's screen waits for the move to be over. QEMU stops the guest when it sees fit, and a guest that
/// stands doesn't see what QEMU is given, so it waits a little before that.
#[derive(Debug, Clone, Copy)]
pub struct Hush {
    since: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Hush {
    /// It waits: nobody knows how fast it goes.
    pub fn begin(now: Instant) -> Self {
        Self { since: Some(now), rests_until: None }
    }

    /// Looks at how far the move is. True if it waits.
    pub fn check(&mut self, progress: &Progress, now: Instant) -> bool {
        let copies = matches!(progress.stage, Stage::None | Stage::Active);
        if !copies {
            // The guest stands. What ends a migration ends the wait.
            return true;
        }
        let until_then = progress.speed.saturating_mul(SOON.as_secs());
        let soon = progress.speed == 0 || progress.remaining < until_then;
        if !soon || self.rests_until.is_some_and(|until| now < until) {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now - since < HUSH_LIMIT {
            return true;
        }
        (self.since, self.rests_until) = (None, Some(now + HUSH_REST));
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_as_qemu_7_2_writes_them() {
        let answer = json!({
            "status": "active", "setup-time": 1, "total-time": 400, "expected-downtime": 300,
            "cpu-throttle-percentage": 20,
            "ram": {"total": 118358016, "remaining": 4096, "transferred": 5000, "dirty-sync-count": 2,
                    "dirty-pages-rate": 10, "page-size": 4096, "mbps": 1.5},
        });
        let want = Progress {
            stage: Stage::Active,
            total: 118_358_016,
            remaining: 4096,
            transferred: 5000,
            iterations: 2,
            speed: 187_500,
            dirty_rate: 40_960,
            throttle: 20,
            ..Progress::default()
        };
        assert_eq!(Progress::read(&answer), want);
        assert_eq!(Progress::read(&json!({})), Progress::default());
        let failed = Progress::read(&json!({"status": "failed", "error-desc": "Broken pipe"}));
        assert_eq!((failed.stage, failed.failure.as_deref()), (Stage::Failed, Some("Broken pipe")));
        for (status, want) in [
            ("none", Stage::None),
            ("setup", Stage::Active),
            ("pre-switchover", Stage::PreSwitchover),
            ("device", Stage::Device),
            ("completed", Stage::Completed),
            ("cancelling", Stage::Cancelling),
            ("cancelled", Stage::Cancelled),
        ] {
            assert_eq!(stage(status), want);
        }
    }

    #[test]
    fn a_screen_waits_where_the_guest_stands_soon_but_not_for_ever() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut hush = Hush::begin(start);
        let (active, stands) = (Stage::Active, Stage::PreSwitchover);
        for (millis, stage, remaining, speed, waits) in [
            // Nobody knows yet.
            (0, active, 0, 0, true),
            (250, active, 100, 10, false),
            (500, active, 21, 10, false),
            (750, active, 19, 10, true),
            // A new round.
            (1000, active, 40, 10, false),
            // It always seems to be over soon.
            (2000, active, 10, 10, true),
            (4900, active, 10, 10, true),
            (5000, active, 10, 10, false),
            (5900, active, 10, 10, false),
            (6000, active, 10, 10, true),
            (9000, stands, 0, 10, true),
            (99_000, stands, 0, 10, true),
        ] {
            let progress = Progress { stage, remaining, speed, ..Progress::default() };
            assert_eq!(hush.check(&progress, at(millis)), waits, "after {millis} ms");
        }
    }

    #[test]
    fn limits_follow_the_memory_and_zero_is_none() {
        let limits = |per_gib, memory, progress| Limits::new(per_gib, memory, progress);
        assert_eq!(limits(150, 96 << 20, 150).completion, Some(Duration::from_secs(150)));
        assert_eq!(limits(150, 3 << 30, 150).completion, Some(Duration::from_secs(450)));
        assert_eq!(limits(0, 3 << 30, 0), Limits { completion: None, progress: None });
    }

    #[test]
    fn too_long_altogether_or_without_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Limits::new(100, 1, 10), start);
        for (second, remaining, want) in [
            (0, 50, Ok(())),
            (9, 60, Ok(())),
            (10, 50, Ok(())),
            (11, 50, Err(TooLong::Progress(11))),
            (12, 49, Ok(())),
            (22, 49, Ok(())),
            (23, 48, Ok(())),
            (101, 1, Err(TooLong::Completion(101))),
        ] {
            assert_eq!(pace.check(remaining, at(second)), want, "second {second}");
        }
        let mut patient = Pace::new(Limits::new(0, 1, 0), start);
        assert_eq!(patient.check(1, at(100_000)), Ok(()));
    }
}
