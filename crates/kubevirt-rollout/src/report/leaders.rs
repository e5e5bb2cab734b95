//! Who led, and for how long nobody did, as the Lease says: from the release, or the last renewal, to the next holder's
//! acquireTime.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::milliseconds;

/// Hand-overs that are listed; the first ones. All are counted.
const MAX_LISTED: usize = 20;
/// Terms that are remembered. A replica that crashes for ever takes the lease every few minutes.
const MAX_TERMS: usize = 64;

/// One holder's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The pod.
    pub holder: String,
    /// When it took the lease.
    pub acquired: Timestamp,
    /// When it renewed it last, or gave it back.
    pub renewed: Timestamp,
    /// It gave it back.
    pub released: bool,
}

/// What a lease has said since somebody looks: one term after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms(Vec<Term>);

impl Terms {
    /// Takes in what the lease says now. Nobody's lease ends the last term.
    pub fn see(&mut self, holder: &str, acquired: Timestamp, renewed: Timestamp) {
        match self.0.last_mut() {
            Some(last) if holder.is_empty() => {
                if !last.released {
                    last.renewed = last.renewed.max(renewed);
                    last.released = true;
                }
            }
            Some(last) if last.holder == holder && last.acquired == acquired => {
                last.renewed = last.renewed.max(renewed);
            }
            None if holder.is_empty() => {}
            Some(_) | None => {
                self.0.push(Term { holder: holder.to_owned(), acquired, renewed, released: false });
                let surplus = self.0.len().saturating_sub(MAX_TERMS);
                self.0.drain(..surplus);
            }
        }
    }

    /// Oldest first.
    pub fn all(&self) -> &[Term] {
        &self.0
    }
}

/// One lease during an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leadership {
    /// How often another took it.
    pub handovers: u64,
    /// The longest time without a holder.
    pub longest_gap_milliseconds: u64,
    /// The first hand-overs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Handover>,
    /// Up to which hand-over all are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_until: Option<Timestamp>,
}

/// One hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handover {
    /// Who had it.
    pub from: String,
    /// Who took it.
    pub to: String,
    /// When it was given back, or renewed for the last time.
    pub free: Timestamp,
    /// When it was taken.
    pub taken: Timestamp,
    /// It was given back; otherwise its holder was lost, and nobody took it before it was up.
    pub released: bool,
    /// From `free` to `taken`.
    pub gap_milliseconds: u64,
}

impl Leadership {
    /// Counts the hand-overs since the start that weren't counted yet.
    pub(super) fn fold(&mut self, terms: &[Term], started: Timestamp) {
        for (before, after) in terms.iter().zip(terms.iter().skip(1)) {
            let counted = self.counted_until.is_some_and(|until| after.acquired <= until);
            if counted || after.acquired < started {
                continue;
            }
            self.counted_until = Some(after.acquired);
            let gap = milliseconds(after.acquired.duration_since(before.renewed));
            self.handovers += 1;
            self.longest_gap_milliseconds = self.longest_gap_milliseconds.max(gap);
            if self.listed.len() < MAX_LISTED {
                self.listed.push(Handover {
                    from: before.holder.clone(),
                    to: after.holder.clone(),
                    free: before.renewed,
                    taken: after.acquired,
                    released: before.released,
                    gap_milliseconds: gap,
                });
            }
        }
    }
}
