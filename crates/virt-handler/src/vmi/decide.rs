//! What to do with one VMI now.
//!
//! Pure: what the API server says of the VMI, what its launcher says of the guest, what this
//! process remembers, and the time go in; one decision comes out. What is remembered only
//! spares calls: a handler that was started at this very line decides the same.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::vmi::{VirtualMachineInstance, VirtualMachineInstanceStatus};
use kubevirt_types::{VmiPhase, labels};

use super::knowledge::{Domain, DomainState, Knowledge};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub notice: Option<Notice>,
    /// When to look again though nothing has changed.
    pub again: Option<Duration>,
}

/// The uid of the launcher pod that runs a VMI on this node.
pub fn pod_uid<'a>(vmi: &'a VirtualMachineInstance, node: &str) -> Option<&'a str> {
    let pods = &vmi.status.as_ref()?.active_pods;
    pods.iter().find(|(_, on)| *on == node).map(|(uid, _)| uid.as_str())
}

/// Whether a VMI is this node's business: the label says so, and so does the status.
pub fn is_mine(vmi: &VirtualMachineInstance, node: &str) -> bool {
    let label = vmi.metadata.labels.as_ref().and_then(|l| l.get(labels::NODE_NAME));
    let in_status = vmi.status.as_ref().and_then(|s| s.node_name.as_deref());
    label.is_some_and(|l| l == node) && in_status.is_none_or(|n| n == node)
}

/// Decides.
pub fn decide(view: View<'_>) -> Decision {
    let phase = view.vmi.status.as_ref().map_or(VmiPhase::Unset, |s| s.phase);
    if !is_mine(view.vmi, view.node) || pod_uid(view.vmi, view.node).is_none() {
        return Decision::default();
    }
    match phase {
        VmiPhase::Unset | VmiPhase::Pending | VmiPhase::Scheduling => Decision::default(),
        VmiPhase::Succeeded | VmiPhase::Failed => after_the_end(view),
        VmiPhase::Scheduled | VmiPhase::Running | VmiPhase::Unknown => match view.knowledge {
            Knowledge::Unasked | Knowledge::Unreachable { .. } => {
                Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
            }
            Knowledge::Known(domain) => with_guest(view, phase, domain),
        },
    }
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
        DomainState::NotStarted | DomainState::Shutoff | DomainState::Crashed | DomainState::Unclear => {
            Decision::default()
        }
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
            let notice = (phase == VmiPhase::Scheduled)
                .then(|| Notice::normal("Started", "VirtualMachineInstance started."));
            if deleting {
                return Decision { status, notice, ..stop(view) };
            }
            Decision { call: None, status, notice, again: Some(RESYNC) }
        }
        DomainState::Starting | DomainState::Unclear | DomainState::ShuttingDown => {
            if deleting {
                stop(view)
            } else {
                Decision { again: Some(LOOK_AGAIN), ..Decision::default() }
            }
        }
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
        notice: Some(notice),
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
