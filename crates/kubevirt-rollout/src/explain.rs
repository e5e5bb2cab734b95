//! What a plan means to a person: what goes on, what is wrong, what happens next and when.
//!
//! Only words: all that is said follows from the plan and the view. Nothing is decided here.

mod overview;
#[cfg(test)]
mod tests;
mod wait;
mod words;

use jiff::Timestamp;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure, UpdateRecord};
use serde::Serialize;

pub use overview::{Overview, StageRow, StageState, StepRow, overview};
pub use wait::Wait;

use crate::context::{Nodes, View};
use crate::observed::Observed;
use crate::plan::{Direction, Plan, Stage};
use crate::policy::Policy;
use crate::waiting::WaitingOn;
use wait::wait;
use words::{clock, nodes, since};

/// What can be done after a failure.
const AFTER_FAILURE: &str = "nothing happens until spec.imageTag changes or virtctl update retry";

/// What goes on, on one line and in its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// All of it on one line.
    pub line: String,
    /// How things stand, for machines.
    pub state: State,
    /// What goes on, such as `update v0.17.0 -> v0.18.0`.
    pub subject: String,
    /// What is wrong, or waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// On which nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When time itself decides it: it is over then, or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What happens next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum State {
    /// There is no KubeVirt object, or it couldn't be seen.
    NotInstalled,
    /// All is as it is wanted.
    Settled,
    /// On its way, and nothing is wrong.
    InProgress,
    /// On its way, and something is wrong that may still get well.
    InTrouble,
    /// The target has failed, and the previous version comes back.
    Returning,
    /// The target has failed, and the previous version is back.
    Returned,
    /// The target has failed, and nothing moves.
    Paused,
    /// The target can't be carried out: somebody has to change the spec.
    Refused,
    /// Everything is removed.
    Uninstalling,
}

/// What is explained.
#[derive(Clone, Copy)]
struct Seen<'a> {
    view: View<'a>,
    plan: &'a Plan,
}

/// Explains a plan that was made from this view.
pub fn explain(observed: &Observed, plan: &Plan, policy: &Policy, now: Timestamp) -> Explanation {
    let nodes = Nodes::of(observed);
    let Some(kubevirt) = observed.kubevirt.as_ref().filter(|_| observed.synced) else {
        let subject = if observed.synced { "there is no KubeVirt object" } else { "not all is seen yet" };
        let next = observed.synced.then(|| "nothing happens until somebody creates one".to_owned());
        return Parts { state: State::NotInstalled, subject: subject.to_owned(), wait: None, next }.told(now);
    };
    let seen = Seen { view: View { observed, kubevirt, policy, now, nodes: &nodes }, plan };
    let wait = seen.foremost().map(|waiting| wait(&seen, waiting));
    let parts = match &plan.failed {
        Some(failed) => seen.failure(failed, wait),
        None => seen.course(wait),
    };
    seen.with_nodes_away(parts.told(now))
}

/// An explanation before it is one line.
struct Parts {
    state: State,
    subject: String,
    wait: Option<Wait>,
    next: Option<String>,
}

impl Parts {
    fn told(self, now: Timestamp) -> Explanation {
        let Self { state, subject, wait, next } = self;
        let next = next.or_else(|| wait.as_ref().map(|wait| wait.next.clone()));
        let what = wait.as_ref().map(|wait| {
            let at = if named(wait) { String::new() } else { format!(" ({})", nodes(&wait.nodes)) };
            let since = wait.since.map(|at| format!(" ({})", since(at, now))).unwrap_or_default();
            format!("{}{at}{since}", wait.message)
        });
        let what_told = what.as_ref().map(|what| format!(": {what}")).unwrap_or_default();
        let next_told = next.as_ref().map(|next| format!("; {next}")).unwrap_or_default();
        Explanation {
            line: format!("{subject}{what_told}{next_told}"),
            state,
            subject,
            what: wait.as_ref().map(|wait| wait.message.clone()),
            nodes: wait.as_ref().map(|wait| wait.nodes.clone()).unwrap_or_default(),
            since: wait.as_ref().and_then(|wait| wait.since),
            until: wait.as_ref().and_then(|wait| wait.until),
            next,
        }
    }
}

/// Whether the message names the nodes already.
fn named(wait: &Wait) -> bool {
    wait.nodes.iter().all(|node| wait.message.contains(node.as_str()))
}

impl Seen<'_> {
    /// What matters most of all that is waited for: what fails first, then what is wrong, then what takes time.
    fn foremost(&self) -> Option<&WaitingOn> {
        let rank = |waiting: &WaitingOn| match waiting {
            WaitingOn::HandlersNotReady { cause: Some(cause), .. }
            | WaitingOn::ControllersNotReady { cause: Some(cause), .. }
            | WaitingOn::ApiNotReady { cause: Some(cause), .. } => (0, Some(cause.fails_at)),
            WaitingOn::Refused { .. } => (1, None),
            WaitingOn::StrategyJob { cause: Some(_), .. } => (2, None),
            WaitingOn::StrategyJob { .. }
            | WaitingOn::GuardNotActive
            | WaitingOn::CrdNotEstablished { .. }
            | WaitingOn::HandlersNotReady { .. }
            | WaitingOn::HandlersSettling { .. }
            | WaitingOn::ControllersNotReady { .. }
            | WaitingOn::ApiNotReady { .. }
            | WaitingOn::Reports { .. }
            | WaitingOn::OldPods { .. }
            | WaitingOn::Leftovers { .. }
            | WaitingOn::Deletion { .. } => (3, None),
            WaitingOn::NodesNotReady { .. } => (4, None),
            WaitingOn::CaNotSpread { .. } => (5, None),
            WaitingOn::UpdateFailed { .. } => (6, None),
        };
        let others = self.plan.waiting_on.iter().filter(|one| !matches!(one, WaitingOn::UpdateFailed { .. }));
        others.min_by_key(|waiting| rank(waiting))
    }

    /// A node that is away is said whatever else goes on.
    fn with_nodes_away(&self, mut explanation: Explanation) -> Explanation {
        let away = |one: &&WaitingOn| matches!(one, WaitingOn::NodesNotReady { .. });
        if let Some(away) = self.plan.waiting_on.iter().find(away).map(ToString::to_string)
            && !explanation.line.contains(&away)
        {
            explanation.line = format!("{}; beside that {away}", explanation.line);
        }
        explanation
    }

    /// What goes on where nothing has failed.
    fn course(&self, wait: Option<Wait>) -> Parts {
        let plan = self.plan;
        let wrong = wait.as_ref().is_some_and(|wait| wait.cause.is_some());
        let refused = plan.waiting_on.iter().any(|waiting| matches!(waiting, WaitingOn::Refused { .. }));
        let (state, subject) = match plan.direction {
            _ if refused => (State::Refused, self.subject()),
            Direction::Uninstall => (State::Uninstalling, self.subject()),
            Direction::Steady if wrong => (State::InTrouble, self.subject()),
            Direction::Steady => (State::Settled, self.subject()),
            _ if plan.stage == Stage::Settled && wait.is_none() => {
                (State::Settled, format!("settled at {}", self.to()))
            }
            _ if wrong => (State::InTrouble, self.subject()),
            _ => (State::InProgress, self.subject()),
        };
        let next = (wait.is_none() && !plan.steps.is_empty()).then(|| self.writes());
        Parts { state, subject, wait, next }
    }

    /// What goes on after a failure.
    fn failure(&self, failed: &FailedUpdate, wait: Option<Wait>) -> Parts {
        let (plan, now) = (self.plan, self.view.now);
        let previous = self.previous();
        let same = failed.version == previous;
        let version = if same { format!("the change of {previous}") } else { failed.version.clone() };
        let back = if same { "what ran before".to_owned() } else { previous };
        let (cause, at) = (&failed.cause, clock(failed.at, now));
        let found_now = self.view.status().and_then(|status| status.failed_update.as_ref()) != Some(failed);
        let towards_it = plan.target.as_ref().is_some_and(|target| target.id() == failed.deployment_id);
        let over = plan.direction == Direction::Steady || plan.stage == Stage::Settled;
        match failed.action {
            OnFailure::Pause => Parts {
                state: State::Paused,
                subject: format!("paused at {}: {version} failed at {at} ({cause})", failed.component),
                wait: None,
                next: Some(AFTER_FAILURE.to_owned()),
            },
            OnFailure::Rollback if towards_it && found_now => Parts {
                state: State::Returning,
                subject: format!("{} failed ({cause})", self.subject()),
                wait: None,
                next: Some(format!("{version} is given up now and {back} comes back")),
            },
            OnFailure::Rollback if over => Parts {
                state: State::Returned,
                subject: format!("{version} failed at {at} ({cause}) and {back} is back"),
                wait: None,
                next: Some("virtctl update retry tries again".to_owned()),
            },
            OnFailure::Rollback => Parts {
                state: State::Returning,
                subject: format!("{version} failed at {at} ({cause}) and {back} comes back"),
                next: (wait.is_none() && !plan.steps.is_empty()).then(|| self.writes()),
                wait,
            },
        }
    }

    /// What changes, from where to where.
    fn subject(&self) -> String {
        let (from, to) = (self.from(), self.to());
        match self.plan.direction {
            Direction::Install => format!("installation of {to}"),
            Direction::Update | Direction::Rollback => {
                let from = from.map(|from| format!("{from} -> ")).unwrap_or_default();
                format!("{} {from}{to}", self.change())
            }
            Direction::SameVersion => format!("change of {to}"),
            Direction::Steady => format!("settled at {to}"),
            Direction::Uninstall => "uninstall".to_owned(),
            Direction::Nothing => match (from, &self.plan.target) {
                (Some(from), Some(_)) if from != to => format!("{} {from} -> {to}", self.change()),
                (_, None) if self.open().is_some() => {
                    "the change that was on its way stands still".to_owned()
                }
                (Some(from), _) => format!("{from} stays"),
                (None, Some(_)) => format!("installation of {to}"),
                (None, None) => "nothing is installed".to_owned(),
            },
        }
    }

    /// A word for what goes on.
    fn change(&self) -> &'static str {
        words::change(self.headed())
    }

    /// Where the change goes, also where its manifests aren't there yet.
    fn headed(&self) -> Direction {
        if self.plan.direction != Direction::Nothing {
            return self.plan.direction;
        }
        let Some(target) = &self.plan.target else { return Direction::Nothing };
        let previous = self.view.status().and_then(|status| status.observed_kube_virt_version.as_deref());
        match previous.and_then(|previous| previous.parse().ok()) {
            None => Direction::Install,
            Some(previous) if target.release > previous => Direction::Update,
            Some(previous) if target.release < previous => Direction::Rollback,
            Some(_) => Direction::SameVersion,
        }
    }

    /// The release that is wanted now.
    fn to(&self) -> String {
        self.plan.target.as_ref().map(|target| target.release.to_string()).unwrap_or_default()
    }

    /// The release that is left: what ran before, or a target that was given up on the way.
    fn from(&self) -> Option<String> {
        let to = self.to();
        if let Some(failed) = self.plan.failed.as_ref().filter(|failed| failed.version != to) {
            return Some(failed.version.clone());
        }
        match self.open() {
            Some(open) if open.to == to => open.from.clone(),
            Some(open) => Some(open.to.clone()),
            None => self.view.status()?.observed_kube_virt_version.clone(),
        }
    }

    /// The change that has begun and isn't over.
    fn open(&self) -> Option<&UpdateRecord> {
        self.view.status()?.history.last().filter(|record| record.completed.is_none())
    }

    /// The release that ran before.
    fn previous(&self) -> String {
        let status = self.view.status();
        status.and_then(|status| status.observed_kube_virt_version.clone()).unwrap_or_default()
    }

    fn on_failure(&self) -> OnFailure {
        let strategy = self.view.kubevirt.spec.update_strategy.as_ref();
        let asked = strategy.and_then(|strategy| strategy.on_failure).unwrap_or_default();
        let observed = self.view.status().and_then(|status| status.observed_deployment_id.as_deref());
        let stored = observed.is_some_and(|id| self.view.observed.strategies.contains_key(id));
        if stored { asked } else { OnFailure::Pause }
    }

    /// What comes back when the target fails; or why it can't fail.
    fn comes_back(&self) -> Result<String, String> {
        let observed = self.view.status().and_then(|status| status.observed_deployment_id.as_deref());
        match (self.plan.direction, observed, &self.plan.target) {
            (_, None, _) => Err("there is no version to come back to".to_owned()),
            (_, Some(id), Some(target)) if target.id() == id => {
                Err(format!("{} is what ran before", target.release))
            }
            (Direction::Update | Direction::Rollback | Direction::SameVersion, ..) => Ok(self.previous()),
            _ => Err("no update is on its way".to_owned()),
        }
    }

    /// What is written next.
    fn writes(&self) -> String {
        let steps = &self.plan.steps;
        let first = steps.first().map(ToString::to_string).unwrap_or_default();
        let more = match steps.len() {
            0 | 1 => String::new(),
            all => format!(" and {} more", all - 1),
        };
        format!("next virt-operator will {first}{more}")
    }
}
