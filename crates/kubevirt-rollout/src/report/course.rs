//! Which update a report is due of, and when it is over: as the KubeVirt object's stored history says.

use jiff::Timestamp;
use kubevirt_types::kubevirt::{OnFailure, UpdateRecord};

use super::{Outcome, UpdateReport};
use crate::plan::{Direction, Plan, Stage};

/// An update that a report is due of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The release before.
    pub from: String,
    /// The release that is wanted.
    pub to: String,
    /// When its record begins.
    pub started: Timestamp,
}

/// Name of the ConfigMap with the report of an update that began then. Later ones sort behind earlier ones.
pub fn name_of(started: Timestamp) -> String {
    format!("kubevirt-update-report-{:013}", started.as_millisecond())
}

/// The update that goes on. An installation is none: nobody can have noticed it. The way back from one that has
/// failed is part of it.
pub fn subject(history: &[UpdateRecord], plan: &Plan) -> Option<Subject> {
    let record = history.last()?;
    if record.completed.is_some() && !goes_back(record, plan) {
        return None;
    }
    Some(Subject { from: record.from.clone()?, to: record.to.clone(), started: record.started })
}

/// When the update that a report is of was over, and how; none while it goes on.
pub fn ending(
    report: &UpdateReport,
    history: &[UpdateRecord],
    plan: &Plan,
    now: Timestamp,
) -> Option<(Timestamp, Outcome)> {
    let record = history.iter().find(|record| record.started == report.started && record.to == report.to);
    let Some(record) = record else {
        // an older operator has dropped the record when another target came, or later ones have pushed it out
        let next = history.iter().find(|record| record.started > report.started);
        let by = next.map(|record| record.to.clone());
        let by = by.or_else(|| plan.target.as_ref().map(|target| target.release.to_string()));
        let outcome = Outcome::Superseded { by: by.unwrap_or_else(|| report.from.clone()) };
        return Some((next.map_or(now, |record| record.started), outcome));
    };
    let completed = record.completed?;
    if let Some(by) = record.superseded_by.clone() {
        return Some((completed, Outcome::Superseded { by }));
    }
    let Some(cause) = record.failed.clone() else { return Some((completed, Outcome::Completed)) };
    if goes_back(record, plan) {
        return None;
    }
    let returned = returns(record, plan);
    let ended = if returned { now } else { completed };
    Some((ended, Outcome::Failed { cause, returned }))
}

/// Whether a record is of the failure after which the version before comes back.
fn returns(record: &UpdateRecord, plan: &Plan) -> bool {
    let failed = plan.failed.as_ref().filter(|failed| failed.action == OnFailure::Rollback);
    failed.is_some_and(|failed| record.failed.is_some() && record.completed == Some(failed.at))
}

/// Whether it isn't back yet.
fn goes_back(record: &UpdateRecord, plan: &Plan) -> bool {
    let arrived = plan.direction == Direction::Steady || plan.stage == Stage::Settled;
    returns(record, plan) && !arrived
}
