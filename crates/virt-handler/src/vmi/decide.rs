//! What to do with one VMI now.
//!
//! Pure: what the API server says of the VMI, what its launcher says of the guest, what this
//! process remembers, and the time go in; one decision comes out. What is remembered only
//! spares calls: a handler that was started at this very line decides the same.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::VmiPhase;
use kubevirt_types::vmi::{VirtualMachineInstance, VirtualMachineInstanceStatus};

use super::knowledge::{Domain, DomainState, Knowledge};
use super::migration::{self, Limits, Verdict};
use super::owner::{self, Part};
use super::status;

/// How often a guest is asked again to shut down: some ignore the button while they boot.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How soon a launcher that doesn't answer is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often a VMI is looked at when nothing happens.
const RESYNC: Duration = Duration::from_secs(300);

/// What this process remembers of a VMI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// When it last asked the guest to shut down.
    pub shutdown_sent: Option<Timestamp>,
    /// When it last told the launcher to kill the guest.
    pub kill_sent: Option<Timestamp>,
    /// When it last wrote how far a migration is.
    pub progress_written: Option<Timestamp>,
}

/// What the API server says of a launcher pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its addresses, the primary one first.
    pub ips: Vec<String>,
    /// Whether somebody has asked for its deletion.
    pub deleting: bool,
}

/// All that a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The VMI.
    pub vmi: &'a VirtualMachineInstance,
    /// This node.
    pub node: &'a str,
    /// What its launcher says.
    pub knowledge: &'a Knowledge,
    /// Its launcher pod, as far as it has been seen.
    pub pod: Option<&'a PodFacts>,
    /// What this process remembers.
    pub memory: &'a Memory,
    /// The time.
    pub now: Timestamp,
}

/// What a launcher is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Run this VMI.
    Sync,
    /// Press the guest's power button, and kill after so many seconds whoever then looks.
    Shutdown {
        /// What is left of the grace, at least one second.
        grace_seconds: u64,
    },
    /// End the guest at once.
    Kill,
    /// Make an identity for a migration away from here.
    PrepareSource {
        /// The migration's uid.
        uid: String,
    },
    /// Listen for a guest that comes from elsewhere.
    PrepareTarget {
        /// The migration's uid.
        uid: String,
        /// Fingerprint of the source's certificate.
        source_certificate: String,
    },
    /// Begin to move the guest.
    Migrate {
        /// The migration's uid.
        uid: String,
        /// The target pod's address.
        address: String,
        /// Where it listens.
        port: u32,
        /// Fingerprint of its certificate.
        certificate: String,
        /// How.
        limits: Limits,
    },
    /// Keep the guest.
    Cancel {
        /// The migration's uid.
        uid: String,
    },
    /// Hear what has become of the target.
    Resolve {
        /// The migration's uid.
        uid: String,
        /// What.
        verdict: Verdict,
    },
    /// End a launcher that can't take a guest in, before it has one.
    Discard {
        /// Why it can't.
        why: String,
    },
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Notice {
    /// A piece of news.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }
    /// A warning.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// What to ask of the launcher.
    pub call: Option<Call>,
    /// The status as it should be; none when it is.
    pub status: Option<VirtualMachineInstanceStatus>,
    /// What to tell people once the status is written.
    pub notices: Vec<Notice>,
    /// When to look again though nothing has changed.
    pub again: Option<Duration>,
}

/// Decides.
pub fn decide(view: View<'_>) -> Decision {
    match owner::part(view.vmi, view.node) {
        Part::Nobody => Decision::default(),
        Part::Owner => as_owner(view),
        Part::Target => migration::take_in(view),
        Part::Left => migration::left(view),
    }
}

fn as_owner(view: View<'_>) -> Decision {
    let phase = view.vmi.status.as_ref().map_or(VmiPhase::Unset, |s| s.phase);
    match phase {
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling => Decision::default(),
        VmiPhase::Succeeded | VmiPhase::Failed => after_the_end(view),
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => match view.knowledge {
            Knowledge::Unasked | Knowledge::Unreachable { .. } => {
                Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
            }
            Knowledge::Known(domain) => {
                let base = if is_absent(view, domain) {
                    Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
                } else {
                    with_guest(view, phase, domain)
                };
                migration::give_away(view, domain, base)
            }
        },
    }
}

/// Whether the guest is, or may be, at the target of a migration that isn't over: nothing that
/// happens here is said of it or done to it.
fn is_absent(view: View<'_>, domain: &Domain) -> bool {
    let in_doubt = owner::migration(view.vmi)
        .is_some_and(|state| !state.is_final() && domain.is_end_in_doubt(&state.migration_uid));
    domain.is_given_away() || in_doubt
}

/// A VMI that has ended for good: a guest that is still there must not outlive it.
fn after_the_end(view: View<'_>) -> Decision {
    let Knowledge::Known(domain) = view.knowledge else { return Decision::default() };
    match domain.state {
        DomainState::Starting | DomainState::Running | DomainState::Paused | DomainState::ShuttingDown => {
            Decision {
                call: due(view.memory.kill_sent, view.now).then_some(Call::Kill),
                again: Some(ASK_AGAIN),
                ..Decision::default()
            }
        }
        DomainState::NotStarted
        | DomainState::Shutoff
        | DomainState::Moved
        | DomainState::Crashed
        | DomainState::Unclear => Decision::default(),
    }
}

fn with_guest(view: View<'_>, phase: VmiPhase, domain: &Domain) -> Decision {
    let deleting = view.vmi.is_deleting();
    match domain.state {
        DomainState::NotStarted if phase != VmiPhase::Scheduled => ended(
            view,
            VmiPhase::Failed,
            "GuestLost",
            Notice::warning(
                "Stopped",
                "The launcher has no guest though the VirtualMachineInstance was running.",
            ),
        ),
        DomainState::NotStarted if deleting => ended(
            view,
            VmiPhase::Succeeded,
            "",
            Notice::normal("Stopped", "The VirtualMachineInstance was deleted before it was started."),
        ),
        DomainState::NotStarted => Decision {
            call: Some(Call::Sync),
            status: changed(view, status::waiting(view.vmi, view.now)),
            again: Some(LOOK_AGAIN),
            ..Decision::default()
        },
        DomainState::Starting | DomainState::Unclear if !deleting => {
            Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
        }
        DomainState::Running | DomainState::Paused => {
            let wanted = status::running(view.vmi, view.node, domain, view.pod, view.now);
            let status = changed(view, wanted);
            let notices = match phase {
                VmiPhase::Scheduled => vec![Notice::normal("Started", "VirtualMachineInstance started.")],
                _ => Vec::new(),
            };
            if deleting {
                return Decision { status, notices, ..stop(view) };
            }
            Decision { call: None, status, notices, again: Some(RESYNC) }
        }
        DomainState::Starting | DomainState::Unclear | DomainState::ShuttingDown => {
            if deleting {
                stop(view)
            } else {
                Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
            }
        }
        // The end of a launcher and not of a guest: see `is_absent`.
        DomainState::Moved => Decision::default(),
        DomainState::Shutoff => ended(
            view,
            VmiPhase::Succeeded,
            "",
            Notice::normal("Stopped", "The VirtualMachineInstance was shut down."),
        ),
        DomainState::Crashed => ended(
            view,
            VmiPhase::Failed,
            if domain.reason.is_empty() { "Crashed" } else { &domain.reason },
            Notice::warning(
                "Stopped",
                format!("The VirtualMachineInstance crashed. {}", domain.detail).trim(),
            ),
        ),
    }
}

/// The next step towards the end of a VMI that somebody deleted.
fn stop(view: View<'_>) -> Decision {
    let Some(asked) = view.vmi.metadata.deletion_timestamp.as_ref() else { return Decision::default() };
    let grace = view.vmi.spec.grace_seconds();
    let left = SignedDuration::from_secs(grace) - asked.0.duration_until(view.now);
    if left <= SignedDuration::ZERO {
        return Decision {
            call: due(view.memory.kill_sent, view.now).then_some(Call::Kill),
            again: Some(ASK_AGAIN),
            ..Decision::default()
        };
    }
    let until_kill = Duration::try_from(left).unwrap_or(ASK_AGAIN);
    Decision {
        call: due(view.memory.shutdown_sent, view.now)
            .then_some(Call::Shutdown { grace_seconds: until_kill.as_secs().max(1) }),
        again: Some(until_kill.min(ASK_AGAIN)),
        ..Decision::default()
    }
}

fn ended(view: View<'_>, phase: VmiPhase, reason: &str, notice: Notice) -> Decision {
    Decision {
        status: changed(view, status::ended(view.vmi, phase, reason, view.now)),
        notices: vec![notice],
        ..Decision::default()
    }
}

fn changed(view: View<'_>, wanted: VirtualMachineInstanceStatus) -> Option<VirtualMachineInstanceStatus> {
    (view.vmi.status.as_ref() != Some(&wanted)).then_some(wanted)
}

/// Whether something that was last done at `sent` is due again.
fn due(sent: Option<Timestamp>, now: Timestamp) -> bool {
    sent.is_none_or(|sent| sent.duration_until(now) >= SignedDuration::from_secs(ASK_AGAIN.as_secs() as i64))
}
