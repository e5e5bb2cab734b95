//! An update's report: what it was, how long each part took, and what its users noticed, as the operator saw it.
//!
//! A value that observations are folded into. It never takes part in a decision, and what nobody watched is said to be
//! unobserved, never to have been well. Fields are added and never change their meaning.

mod availability;
mod course;
mod gaps;
mod leaders;
mod migrations;
mod rollout;
mod sessions;
mod size;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::kubevirt::ReportSummary;
use serde::{Deserialize, Serialize};

use crate::observed::Observed;
use crate::plan::Plan;

pub use availability::{Availability, Failure, Probe, ProbeKind, STALLED};
pub use course::{Subject, ending, name_of, subject};
pub use gaps::{Gaps, Within};
pub use leaders::{Handover, Leadership, Term, Terms};
pub use migrations::{FailedMigration, Fate, Migrations, Moved};
pub use rollout::{Component, Times};
pub use sessions::{Api, ApiPod, ApiStreams, Sessions};
pub use size::{LIMIT, NODES_KEPT, stored};

/// Stretches without an eye on it that are listed; more are only added up.
const MAX_UNOBSERVED: usize = 50;
/// Stages that are listed. An update has about fifteen; one that goes to and fro has more.
const MAX_STAGES: usize = 100;

/// One update, from its first step to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateReport {
    /// The release before.
    pub from: String,
    /// The release that was wanted.
    pub to: String,
    /// Install, Update, Rollback or SameVersion, as it was when the report began.
    pub direction: String,
    /// When its first step was taken: `started` of its record in the KubeVirt object's history.
    pub started: Timestamp,
    /// When it was over; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How it ended; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Until when the report knows.
    pub observed_until: Timestamp,
    /// The stages in the order in which they were reached.
    #[serde(default)]
    pub stages: Vec<StageReached>,
    /// When each component was replaced, by its name.
    #[serde(default)]
    pub components: BTreeMap<String, Component>,
    /// What the operator asked all along and what it was answered, by what was asked.
    #[serde(default)]
    pub availability: BTreeMap<ProbeKind, Availability>,
    /// When nobody watched: it is not known what the users saw then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unobserved: Vec<Span>,
    /// All of it, those that aren't listed too.
    #[serde(default)]
    pub unobserved_milliseconds: u64,
    /// Who led, by the Lease's name.
    #[serde(default)]
    pub leaders: BTreeMap<String, Leadership>,
    /// Consoles and screens.
    #[serde(default)]
    pub sessions: Sessions,
    /// Live migrations.
    #[serde(default)]
    pub migrations: Migrations,
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// All is as it was wanted.
    Completed,
    /// It was given up.
    Failed {
        /// Why.
        cause: String,
        /// The version before is back; otherwise all stays where it was.
        returned: bool,
    },
    /// Another target took its place.
    Superseded {
        /// The release that was wanted then.
        by: String,
    },
}

/// A stage, and when it was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReached {
    /// The stage's name in the plan.
    pub stage: String,
    /// When a plan first was at it.
    pub at: Timestamp,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    #[allow(missing_docs)]
    pub from: Timestamp,
    #[allow(missing_docs)]
    pub to: Timestamp,
}

/// Something that was seen.
#[derive(Debug)]
pub enum Observation<'a> {
    /// The world, and the plan that was made from it.
    World(&'a Observed, &'a Plan),
    /// A request of the prober's and its answer.
    Probe(&'a Probe),
    /// Who has held a lease, oldest first, as far back as anybody remembers.
    Terms(&'a str, &'a [Term]),
    /// Every pod of virt-api that there is, and what it says of the streams that it carries.
    Streams(&'a [ApiPod]),
    /// Every migration that there is.
    Migrations(&'a [Moved]),
}

impl UpdateReport {
    /// The report of an update that nobody has watched yet.
    pub fn begin(subject: &Subject, direction: &str, now: Timestamp) -> Self {
        let mut report = Self {
            from: subject.from.clone(),
            to: subject.to.clone(),
            direction: direction.to_owned(),
            started: subject.started,
            ended: None,
            outcome: None,
            observed_until: subject.started,
            stages: vec![],
            components: BTreeMap::new(),
            availability: BTreeMap::new(),
            unobserved: vec![],
            unobserved_milliseconds: 0,
            leaders: BTreeMap::new(),
            sessions: Sessions::default(),
            migrations: Migrations::default(),
        };
        report.resume(now);
        report
    }

    /// Somebody watches again. What has been since the report knew last stays unknown.
    pub fn resume(&mut self, now: Timestamp) {
        let until = self.ended.map_or(now, |ended| ended.min(now));
        self.blind(Span { from: self.observed_until, to: until });
        self.availability.values_mut().for_each(Availability::pause);
        self.sessions.pause();
        self.observed_until = self.observed_until.max(until);
    }

    /// Takes in what was seen. What was seen after the end is left out.
    pub fn fold(&mut self, observation: &Observation<'_>, now: Timestamp) {
        if self.ended.is_some() {
            return;
        }
        match observation {
            Observation::World(observed, plan) => {
                self.reached(plan, now);
                rollout::fold(&mut self.components, observed, self.started, now);
            }
            Observation::Probe(probe) => {
                let blind = self.availability.entry(probe.kind).or_default().fold(probe);
                blind.into_iter().for_each(|span| self.blind(span));
            }
            Observation::Terms(lease, terms) => {
                self.leaders.entry((*lease).to_owned()).or_default().fold(terms, self.started);
            }
            Observation::Streams(pods) => self.sessions.fold(pods, self.started, now),
            Observation::Migrations(all) => self.migrations.fold(all, self.started),
        }
        self.observed_until = self.observed_until.max(now);
    }

    /// It is over. A gap that no answer has ended, ends here.
    pub fn end(&mut self, ended: Timestamp, outcome: Outcome) {
        for availability in self.availability.values_mut() {
            availability.end(ended);
        }
        self.sessions.end(ended);
        self.migrations.end();
        self.ended = Some(ended);
        self.outcome = Some(outcome);
    }

    /// What the KubeVirt object's status says of it.
    pub fn summary(&self, config_map: &str) -> ReportSummary {
        let probes = || self.availability.values();
        let until = self.ended.unwrap_or(self.observed_until);
        ReportSummary {
            config_map: config_map.to_owned(),
            seconds: milliseconds(until.duration_since(self.started)) / 1000,
            requests: probes().map(|one| one.probes).sum(),
            failed_requests: probes().map(|one| one.failed).sum(),
            longest_gap_milliseconds: probes().map(|one| one.longest_gap_milliseconds).max().unwrap_or(0),
            unobserved_milliseconds: self.unobserved_milliseconds,
            longest_leader_gap_milliseconds: self
                .leaders
                .values()
                .map(|one| one.longest_gap_milliseconds)
                .max()
                .unwrap_or(0),
            migrations: self.migrations.all(),
            migrations_failed: self.migrations.failed,
            sessions_carried: self.sessions.carried(),
            sessions_cut: self.sessions.cut,
            sessions_lost: Some(self.sessions.lost),
            longest_session_gap_milliseconds: self.sessions.longest_gap(),
        }
    }

    fn reached(&mut self, plan: &Plan, now: Timestamp) {
        let stage = plan.stage.to_string();
        let new = self.stages.last().is_none_or(|last| last.stage != stage);
        if new && self.stages.len() < MAX_STAGES {
            self.stages.push(StageReached { stage, at: now });
        }
    }

    fn blind(&mut self, span: Span) {
        let length = milliseconds(span.to.duration_since(span.from));
        if length == 0 {
            return;
        }
        self.unobserved_milliseconds += length;
        if self.unobserved.len() < MAX_UNOBSERVED {
            self.unobserved.push(span);
        }
    }
}

/// Milliseconds of a length of time; none of one that is negative, as between two clocks.
fn milliseconds(length: SignedDuration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(0)
}
