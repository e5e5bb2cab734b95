//! What the operator's own prober was answered: how often, and for how long it wasn't.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Span, milliseconds};

/// Failures that are listed, of each kind; the first ones. The last one is kept apart.
const MAX_FAILURES: usize = 20;
/// Longer words of an error are cut.
const MAX_WORDS: usize = 500;
/// A prober that hasn't asked for so long didn't run: no request of its may take longer, so one that only waits for answers
/// asks again before. What was then isn't known.
pub const STALLED: SignedDuration = SignedDuration::from_secs(20);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    /// The API server for what virt-api serves: through the aggregator, without an object.
    ApiServer,
    /// To create an instance, as a dry run: admission by virt-api is asked, nothing is stored.
    Webhook,
    /// For a subresource of an instance that doesn't exist: virt-api asks who may, looks, and says that there is none.
    Subresource,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ApiServer, Self::Webhook, Self::Subresource];
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiServer => "API server",
            Self::Webhook => "webhook",
            Self::Subresource => "subresource",
        })
    }
}

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was asked.
    pub kind: ProbeKind,
    /// When it was sent.
    pub sent: Timestamp,
    /// When the answer was there, or was waited for no longer.
    pub answered: Timestamp,
    /// What was wrong with it; none of one that was as it should be.
    pub failed: Option<String>,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When it was sent.
    pub sent: Timestamp,
    /// When it had failed.
    pub answered: Timestamp,
    /// What was said.
    pub words: String,
}

/// All answers of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// Requests.
    pub probes: u64,
    /// How many of them failed.
    pub failed: u64,
    /// The longest time between two answers that were as they should be. Without failures that is the pace at which was
    /// asked and the time that an answer took.
    pub longest_gap_milliseconds: u64,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap_from: Option<Timestamp>,
    /// The longest time that an answer took that was as it should be.
    pub slowest_milliseconds: u64,
    /// The first failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// From when a gap is counted: the last good answer, or the first request since somebody watches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_until: Option<Timestamp>,
    /// When was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_last: Option<Timestamp>,
}

impl Availability {
    /// Takes in one answer, and says when nobody has asked for too long before it.
    pub(super) fn fold(&mut self, probe: &Probe) -> Option<Span> {
        let stalled = self.asked_last.filter(|last| probe.sent.duration_since(*last) > STALLED);
        if stalled.is_some() {
            self.good_until = None;
        }
        self.asked_last = self.asked_last.max(Some(probe.sent));
        self.probes += 1;
        let good_until = *self.good_until.get_or_insert(probe.sent);
        match &probe.failed {
            None => {
                self.gap(good_until, probe.answered);
                self.good_until = Some(good_until.max(probe.answered));
                let took = milliseconds(probe.answered.duration_since(probe.sent));
                self.slowest_milliseconds = self.slowest_milliseconds.max(took);
            }
            Some(words) => {
                self.failed += 1;
                let words = words.chars().take(MAX_WORDS).collect();
                let failure = Failure { sent: probe.sent, answered: probe.answered, words };
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push(failure.clone());
                }
                self.last_failure = Some(failure);
            }
        }
        stalled.map(|from| Span { from, to: probe.sent })
    }

    /// Nobody asks any more: what comes next says nothing about the time until then.
    pub(super) fn pause(&mut self) {
        self.good_until = None;
        self.asked_last = None;
    }

    /// It is over.
    pub(super) fn end(&mut self, ended: Timestamp) {
        if let Some(good_until) = self.good_until {
            self.gap(good_until, ended);
        }
        self.pause();
    }

    fn gap(&mut self, from: Timestamp, to: Timestamp) {
        let length = milliseconds(to.duration_since(from));
        if length > self.longest_gap_milliseconds {
            self.longest_gap_milliseconds = length;
            self.longest_gap_from = Some(from);
        }
    }
}
