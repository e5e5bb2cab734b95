//! What is known of a launcher at this moment.
//!
//! Pure. The one rule: silence is not an answer. Nothing here turns a launcher that can't be
//! reached into a guest that has stopped.

use jiff::Timestamp;
use kubevirt_types::migration::MigrationProgress;

/// Why a launcher is off whose QEMU was ended from outside.
const KILLED: &str = "Killed";

/// What is known of the launcher of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// It has not been dialled, or has not answered since this process started.
    #[default]
    Unasked,
    /// It has answered before, or should, and does not now.
    Unreachable {
        /// Since when.
        since: Timestamp,
        /// What dialling it said.
        error: String,
    },
    /// It answers, and this is what it said last.
    Known(Domain),
}

/// A guest as its launcher reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Where it is in its life.
    pub state: DomainState,
    /// Why, in one word of the launcher's; may be empty.
    pub reason: String,
    /// How it ended, for people; may be empty.
    pub detail: String,
    /// Network interfaces: the name in the VMI's spec and the MAC address.
    pub interfaces: Vec<DomainInterface>,
    /// The machine that QEMU runs, without aliases; may be empty.
    pub machine_type: String,
    /// Whether its launcher is of a release that can move guests.
    pub can_move: bool,
    /// Why this guest can't be moved all the same, for people; empty if it can.
    pub not_migratable: String,
    /// The last migration that its launcher had a part in.
    pub migration: Option<Box<Migration>>,
}

/// A migration as one of its launchers reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Whose.
    pub uid: String,
    /// The launcher's part.
    pub role: Role,
    /// How far it is.
    pub stage: Stage,
    /// The numbers of it.
    pub progress: MigrationProgress,
    /// When it began; none before.
    pub started: Option<Timestamp>,
    /// When it was over on this side; none before.
    pub ended: Option<Timestamp>,
    /// How long the guest stood; none where it isn't known.
    pub downtime_ms: Option<u64>,
    /// Why it failed, for people; may be empty.
    pub failure: String,
    /// The launcher has lost the other one, and asks what has become of the guest.
    pub unreachable: bool,
}

/// A launcher's part in a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It gives the guest away.
    Source,
    /// It gets the guest.
    Target,
    /// It says something that this release doesn't know.
    Unclear,
}

/// How far a migration is, as one side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is an identity; a target listens.
    Prepared,
    /// The source dials the target.
    Connecting,
    /// Memory is copied while the guest runs at the source.
    PreCopy,
    /// The guest stands; the source may still keep it.
    Switchover,
    /// The source has given the guest away, and doesn't know yet whether it runs.
    HandedOver,
    /// The guest runs at the target. Final.
    Completed,
    /// The guest has stayed at the source, or ended there. Final.
    Failed,
    /// As failed, because somebody wanted so. Final.
    Cancelled,
    /// The launcher says something that this release doesn't know.
    Unclear,
}

/// A network interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInterface {
    /// The name in the VMI's spec.
    pub name: String,
    /// The MAC address that QEMU uses.
    pub mac: String,
}

/// Where a guest is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// The launcher has not been told what to run.
    NotStarted,
    /// QEMU is being started.
    Starting,
    /// The guest runs.
    Running,
    /// The guest is stopped in its tracks and can go on.
    Paused,
    /// The guest is on its way down.
    ShuttingDown,
    /// The guest went down in order, or was stopped.
    Shutoff,
    /// The guest runs at another launcher. The end of this launcher, but not of the guest.
    Moved,
    /// QEMU ended in a way that nobody asked for.
    Crashed,
    /// The launcher itself can't tell.
    Unclear,
}

impl Domain {
    /// A guest in this state, without interfaces.
    pub fn in_state(state: DomainState) -> Self {
        Self {
            state,
            reason: String::new(),
            detail: String::new(),
            interfaces: Vec::new(),
            machine_type: String::new(),
            can_move: false,
            not_migratable: String::new(),
            migration: None,
        }
    }

    /// The launcher's part in this migration, if it had one of this kind.
    pub fn part_in(&self, uid: &str, role: Role) -> Option<&Migration> {
        self.migration.as_deref().filter(|migration| migration.uid == uid && migration.role == role)
    }

    /// Whether the guest's end here may have been its end at a source that had given it away: who
    /// ends a source may come too late. What is certain is the word of the others.
    pub fn is_end_in_doubt(&self, uid: &str) -> bool {
        let begun = self.part_in(uid, Role::Source).is_some_and(|ours| ours.started.is_some());
        begun && self.state == DomainState::Shutoff && self.reason == KILLED
    }

    /// Whether the guest was given to another launcher: it isn't here, whatever has become of it.
    pub fn is_given_away(&self) -> bool {
        let given = |migration: &Migration| match migration.stage {
            Stage::HandedOver | Stage::Completed => migration.role == Role::Source,
            Stage::Prepared
            | Stage::Connecting
            | Stage::PreCopy
            | Stage::Switchover
            | Stage::Failed
            | Stage::Cancelled
            | Stage::Unclear => false,
        };
        self.state == DomainState::Moved || self.migration.as_deref().is_some_and(given)
    }
}

impl DomainState {
    /// Whether nothing can come after it at this launcher.
    pub fn is_end(self) -> bool {
        match self {
            Self::Shutoff | Self::Moved | Self::Crashed => true,
            Self::NotStarted
            | Self::Starting
            | Self::Running
            | Self::Paused
            | Self::ShuttingDown
            | Self::Unclear => false,
        }
    }
}

impl Knowledge {
    /// Whether nothing but the numbers of a migration is new.
    pub fn differs_in_numbers_only(&self, before: &Self) -> bool {
        let (Self::Known(now), Self::Known(before)) = (self, before) else { return false };
        let (Some(new), Some(old)) = (&now.migration, &before.migration) else { return false };
        let new = Migration::clone(new);
        let same = Migration { progress: old.progress.clone(), downtime_ms: old.downtime_ms, ..new };
        Domain { migration: Some(Box::new(same)), ..now.clone() } == *before
    }

    /// What is known after the launcher has fallen silent. A guest's end stays known: a launcher
    /// that has said it may go, and then is silent for good.
    pub fn after_silence(&self, error: &str, now: Timestamp) -> Self {
        match self {
            Self::Known(domain) if domain.state.is_end() => self.clone(),
            Self::Unreachable { since, .. } => Self::Unreachable { since: *since, error: error.to_owned() },
            Self::Known(_) | Self::Unasked => Self::Unreachable { since: now, error: error.to_owned() },
        }
    }
}
