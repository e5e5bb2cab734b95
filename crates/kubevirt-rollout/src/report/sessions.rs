//! Consoles and screens, as the virt-apis count them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a virt-api says of its streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiStreams {
    /// The pod.
    #[serde(skip)]
    pub pod: String,
    /// When that was made.
    #[serde(skip)]
    pub made: Timestamp,
    /// Consoles and screens that are open.
    pub open: u64,
    /// Since it started: streams that lost their virt-handler and went on without a byte missing.
    pub resumed: u64,
    /// The same, with bytes missing.
    pub resumed_with_gap: u64,
    /// The same, but they couldn't be resumed.
    pub cut: u64,
}

/// Consoles and screens during an update. Source: the virt-apis' metrics, as long as they listen. What becomes of the
/// streams that one carries on after that, until they end or its grace is over, nobody counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// Open when somebody looked first; none when nobody could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_at_start: Option<u64>,
    /// Open when somebody looked last, on virt-apis that listen.
    pub open: u64,
    /// Times that one lost its virt-handler and went on without a byte missing.
    pub resumed: u64,
    /// The same, with bytes missing.
    pub resumed_with_gap: u64,
    /// Those that lost their virt-handler and couldn't be resumed.
    pub cut: u64,
    /// Open on virt-apis when these stopped to listen, who carry them on.
    pub left_to_drain: u64,
    /// What each virt-api said last; none when all is over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub apis: BTreeMap<String, ApiStreams>,
}

impl Sessions {
    /// Takes in what the virt-apis say. One that was made since the start has counted from zero; of an older one only
    /// counts what is more than when it was first asked.
    pub(super) fn fold(&mut self, answered: &[ApiStreams], present: &[String], started: Timestamp) {
        if answered.is_empty() && self.open_at_start.is_none() {
            return;
        }
        for said in answered {
            let unseen = if said.made < started { said.clone() } else { ApiStreams::default() };
            let before = self.apis.insert(said.pod.clone(), said.clone()).unwrap_or(unseen);
            // a counter that went back has begun anew
            let more = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
            self.resumed += more(before.resumed, said.resumed);
            self.resumed_with_gap += more(before.resumed_with_gap, said.resumed_with_gap);
            self.cut += more(before.cut, said.cut);
        }
        let gone = self.apis.extract_if(.., |pod, _| !present.contains(pod));
        self.left_to_drain += gone.map(|(_, said)| said.open).sum::<u64>();
        self.open = self.apis.values().map(|said| said.open).sum();
        self.open_at_start.get_or_insert(self.open);
    }

    /// Times that a session was carried over the end of a virt-handler or a virt-api.
    pub fn carried(&self) -> u64 {
        self.resumed + self.resumed_with_gap + self.left_to_drain
    }

    /// Nobody counts any more.
    pub(super) fn end(&mut self) {
        self.apis.clear();
    }
}
