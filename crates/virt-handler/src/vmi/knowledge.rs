//! What is known of a launcher at this moment.
//!
//! Pure. The one rule: silence is not an answer. Nothing here turns a launcher that can't be
//! reached into a guest that has stopped.

use jiff::Timestamp;

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
    /// QEMU ended in a way that nobody asked for.
    Crashed,
    /// The launcher itself can't tell.
    Unclear,
}

impl Domain {
    /// A guest in this state, without interfaces.
    pub fn in_state(state: DomainState) -> Self {
        Self { state, reason: String::new(), detail: String::new(), interfaces: Vec::new() }
    }
}

impl DomainState {
    /// Whether nothing can come after it.
    pub fn is_end(self) -> bool {
        match self {
            Self::Shutoff | Self::Crashed => true,
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
