//! The part of the node that has the guest. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::migration::{AbortStatus, MigrationMode, MigrationState};

use super::{LOOK_AGAIN, Limits, Verdict, failed, with};
use crate::vmi::decide::{Call, Decision, Notice, View};
use crate::vmi::knowledge::{Domain, DomainState, Knowledge, Migration, Role, Stage};
use crate::vmi::owner;

/// How often numbers are written at most.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is done beside `base`, which is what the guest itself calls for.
pub fn give_away(view: View<'_>, domain: &Domain, base: Decision) -> Decision {
    let Some(state) = owner::migration(view.vmi).filter(|state| state.source_node == view.node) else {
        return base;
    };
    let ends = base.status.as_ref().is_some_and(|status| status.phase.is_final());
    let step = step(view, domain, state, ends);
    let status = match step.state {
        Some(state) => Some(with(base.status, view.vmi, state)),
        None => base.status,
    };
    let call = base.call.or(step.call);
    // What it answers is written: that is only possible over a status that is up to date.
    let call = call.filter(|call| status.is_none() || !matches!(call, Call::PrepareSource { .. }));
    let mut notices = base.notices;
    notices.extend(step.notice);
    let again = base.again.into_iter().chain(step.again).min();
    Decision { call, status, notices, again }
}

/// What is done when the guest has moved away from here.
pub fn left(view: View<'_>) -> Decision {
    let (Some(state), Knowledge::Known(domain)) = (owner::migration(view.vmi), view.knowledge) else {
        return Decision::default();
    };
    let Some(ours) = domain.part_in(&state.migration_uid, Role::Source) else { return Decision::default() };
    let step = completed(state, ours);
    let status = step.state.map(|state| with(None, view.vmi, state));
    Decision { call: step.call, status, notices: Vec::new(), again: step.again }
}

/// What a migration calls for.
#[derive(Debug, Default)]
struct Step {
    state: Option<MigrationState>,
    call: Option<Call>,
    notice: Option<Notice>,
    again: Option<Duration>,
}

impl Step {
    fn ask(call: Call) -> Self {
        Self { call: Some(call), again: Some(LOOK_AGAIN), ..Self::default() }
    }

    fn wait() -> Self {
        Self { again: Some(LOOK_AGAIN), ..Self::default() }
    }

    fn fail(state: &MigrationState, why: &str, at: Timestamp) -> Self {
        let (state, notice) = failed(state, why, at);
        Self { state: Some(state), notice: Some(notice), ..Self::default() }
    }
}

fn step(view: View<'_>, domain: &Domain, state: &MigrationState, ends: bool) -> Step {
    if let Some(step) = domain.migration.as_deref().and_then(|other| leftover(other, state)) {
        return step;
    }
    let ours = domain.part_in(&state.migration_uid, Role::Source);
    if state.is_final() {
        return ours.map_or_else(Step::default, |ours| stayed(state, ours));
    }
    if let Some(ours) = ours.filter(|ours| matches!(ours.stage, Stage::Failed | Stage::Cancelled)) {
        // An end that may have been another's word is no word of this one.
        return if domain.is_end_in_doubt(&state.migration_uid) {
            Step::wait()
        } else {
            Step::fail(state, why(ours), ours.ended.unwrap_or(view.now))
        };
    }
    if ends {
        return Step::fail(state, "the virtual machine has ended before it was moved", view.now);
    }
    if !domain.can_move {
        let why = "the virtual machine's launcher is of a release that can't move it";
        return Step::fail(state, why, view.now);
    }
    match ours {
        None => begin(view, domain, state),
        Some(ours) => proceed(view, state, ours),
    }
}

/// Nothing is known of this migration at the launcher.
fn begin(view: View<'_>, domain: &Domain, state: &MigrationState) -> Step {
    if state.abort_requested {
        return Step::fail(state, "cancelled", view.now);
    }
    if state.source_certificate_sha256.is_some() {
        // A launcher forgets nothing while it lives.
        return Step::fail(state, "the virtual machine's launcher doesn't know this migration", view.now);
    }
    let lives = matches!(domain.state, DomainState::Running | DomainState::Paused);
    if lives && !view.vmi.is_deleting() {
        return Step::ask(Call::PrepareSource { uid: state.migration_uid.clone() });
    }
    Step::wait()
}

fn proceed(view: View<'_>, state: &MigrationState, ours: &Migration) -> Step {
    let uid = || state.migration_uid.clone();
    let aborts = state.abort_requested && state.abort_status.is_none();
    match ours.stage {
        Stage::Prepared | Stage::Connecting | Stage::PreCopy | Stage::Switchover if aborts => {
            Step::ask(Call::Cancel { uid: uid() })
        }
        Stage::Prepared => match target(state) {
            _ if state.source_certificate_sha256.is_none() => Step::ask(Call::PrepareSource { uid: uid() }),
            Some((address, port, certificate)) => {
                let limits = Limits::of(state.migration_configuration.as_ref());
                Step::ask(Call::Migrate { uid: uid(), address, port, certificate, limits })
            }
            None => Step::default(),
        },
        Stage::Connecting | Stage::PreCopy | Stage::Switchover => progress(view, state, ours),
        Stage::HandedOver | Stage::Completed if aborts => {
            let late = MigrationState { abort_status: Some(AbortStatus::Failed), ..state.clone() };
            Step { state: Some(late), ..Step::wait() }
        }
        Stage::HandedOver => Step::wait(),
        Stage::Completed => completed(state, ours),
        // Both were looked at before.
        Stage::Failed | Stage::Cancelled => Step::default(),
        Stage::Unclear => Step::wait(),
    }
}

/// Where the target listens, once its handler has said so.
fn target(state: &MigrationState) -> Option<(String, u32, String)> {
    let (address, certificate) =
        (state.target_node_address.clone()?, state.target_certificate_sha256.clone()?);
    Some((address, state.target_port?, certificate))
}

/// Writes how far it is.
fn progress(view: View<'_>, state: &MigrationState, ours: &Migration) -> Step {
    let begins = state.start_timestamp.is_none();
    let mut now = state.clone();
    now.start_timestamp = state.start_timestamp.or(ours.started).or(Some(view.now));
    now.mode = Some(MigrationMode::PreCopy);
    if ours.progress.total_bytes > 0 {
        now.progress = Some(ours.progress.clone());
    }
    if now == *state {
        return Step::default();
    }
    let pause = SignedDuration::try_from(PROGRESS).unwrap_or_default();
    let early = view.memory.progress_written.is_some_and(|at| at.duration_until(view.now) < pause);
    if !begins && early {
        return Step { again: Some(PROGRESS), ..Step::default() };
    }
    let notice = begins.then(|| Notice::normal("Migrating", "VirtualMachineInstance is migrating."));
    Step { state: Some(now), notice, ..Step::default() }
}

/// The guest runs at the target, which its launcher or the target's handler has said.
fn completed(state: &MigrationState, ours: &Migration) -> Step {
    match ours.stage {
        Stage::HandedOver if ours.unreachable && state.completed => {
            Step::ask(Call::Resolve { uid: state.migration_uid.clone(), verdict: Verdict::TargetRuns })
        }
        Stage::Completed if state.downtime_milliseconds.is_none() && ours.downtime_ms.is_some() => {
            let told = MigrationState { downtime_milliseconds: ours.downtime_ms, ..state.clone() };
            Step { state: Some(told), ..Step::default() }
        }
        _ => Step::default(),
    }
}

/// The guest stays here, which is written; its launcher may not know yet.
fn stayed(state: &MigrationState, ours: &Migration) -> Step {
    let uid = state.migration_uid.clone();
    match ours.stage {
        Stage::HandedOver if ours.unreachable => {
            Step::ask(Call::Resolve { uid, verdict: Verdict::TargetGone })
        }
        Stage::HandedOver => Step::wait(),
        Stage::Prepared | Stage::Connecting | Stage::PreCopy | Stage::Switchover => {
            Step::ask(Call::Cancel { uid })
        }
        Stage::Completed | Stage::Failed | Stage::Cancelled | Stage::Unclear => Step::default(),
    }
}

/// An earlier migration that the launcher isn't done with. It was over before this one began, and
/// the guest is this node's, so it has failed.
fn leftover(other: &Migration, state: &MigrationState) -> Option<Step> {
    let earlier = other.role == Role::Source && other.uid != state.migration_uid;
    let failed =
        MigrationState { migration_uid: other.uid.clone(), failed: true, ..MigrationState::default() };
    match other.stage {
        // The next identity takes its place.
        Stage::Prepared => None,
        _ if !earlier => None,
        _ => Some(stayed(&failed, other)).filter(|step| step.again.is_some()),
    }
}

fn why(ours: &Migration) -> &str {
    match (ours.failure.as_str(), ours.stage) {
        ("", Stage::Cancelled) => "cancelled",
        ("", _) => "the virtual machine's launcher doesn't say why",
        (failure, _) => failure,
    }
}
