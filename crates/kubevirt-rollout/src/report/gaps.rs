//! How long streams had no virt-handler, as a virt-api's histogram says: it tells all that have been since its process
//! began, and a report wants the longest of some of them.

use serde::{Deserialize, Serialize};

/// What a histogram of gaps says, of consoles and screens together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gaps {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum_milliseconds: u64,
    /// How many were at most so long, one bound after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Within>,
}

/// One bound of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Within {
    /// The bound.
    pub milliseconds: u64,
    /// Gaps of at most this length.
    pub count: u64,
}

impl Gaps {
    /// Adds what one series says of a bound.
    pub fn add_within(&mut self, milliseconds: u64, count: u64) {
        match self.within.iter_mut().find(|within| within.milliseconds == milliseconds) {
            Some(within) => within.count += count,
            None => self.within.push(Within { milliseconds, count }),
        }
        self.within.sort_by_key(|within| within.milliseconds);
    }

    /// Whether there was none, or nobody says.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there were since then.
    pub(super) fn more_than(&self, before: &Self) -> u64 {
        self.count.saturating_sub(before.count)
    }

    /// What none of those since then was longer than: the bound within which all of them are, or all of them together if that
    /// is less. So a single gap is known as it was.
    pub(super) fn longest_since(&self, before: &Self) -> u64 {
        let all = self.more_than(before);
        if all == 0 {
            return 0;
        }
        let together = self.sum_milliseconds.saturating_sub(before.sum_milliseconds);
        let holds_all =
            |within: &&Within| within.count.saturating_sub(before.within(within.milliseconds)) >= all;
        let bound = self.within.iter().find(holds_all).map(|within| within.milliseconds);
        bound.map_or(together, |bound| bound.min(together))
    }

    fn within(&self, milliseconds: u64) -> u64 {
        self.within.iter().find(|within| within.milliseconds == milliseconds).map_or(0, |within| within.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A histogram with bounds of 10, 100 and 1000 ms.
    fn gaps(lengths: &[u64]) -> Gaps {
        let count = |bound: u64| lengths.iter().filter(|length| **length <= bound).count() as u64;
        let mut gaps =
            Gaps { count: count(u64::MAX), sum_milliseconds: lengths.iter().sum(), within: vec![] };
        [1000, 10, 100].into_iter().for_each(|bound| gaps.add_within(bound, count(bound)));
        gaps
    }

    #[test]
    fn the_longest_of_those_since_then_is_bounded() {
        // before, since, none was longer than
        let table: &[(&[u64], &[u64], u64)] = &[
            (&[], &[], 0),
            (&[900], &[], 0),
            (&[], &[37], 37),
            (&[900], &[37], 37),
            (&[900], &[37, 40, 90], 100),
            (&[5, 5], &[2, 3, 4], 9),
            (&[5], &[200, 7, 8], 215),
            (&[5], &[700, 700], 1000),
            (&[5], &[4000, 2], 4002),
        ];
        for (before, since, longest) in table {
            let now = gaps(&[*before, *since].concat());
            assert_eq!(now.longest_since(&gaps(before)), *longest, "{before:?} and {since:?}");
            assert!(*longest >= since.iter().copied().max().unwrap_or(0), "never less than it was");
        }
    }
}
