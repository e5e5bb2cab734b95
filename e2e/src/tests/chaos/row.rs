//! One line of the table: what an update cost those who were at work, as seen from outside.

use std::ops::AddAssign;
use std::time::Duration;

use jiff::Timestamp;

use crate::devices::Lack;
use crate::leaders::Reign;
use crate::talk::{Echoes, With};
use crate::viewer::{self, Viewed};

/// Sessions of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sessions {
    pub open: u32,
    /// Connections that ended before they were told to.
    pub cut: u32,
    /// Resumed by the client itself.
    pub resumed: u32,
    /// Bytes that were typed and never came, or came again.
    pub typed_lost: u64,
}

impl AddAssign for Sessions {
    fn add_assign(&mut self, other: Self) {
        self.open += other.open;
        self.cut += other.cut;
        self.resumed += other.resumed;
        self.typed_lost += other.typed_lost;
    }
}

/// What one scenario cost.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub scenario: String,
    /// How long the update took.
    pub seconds: f64,
    pub requests: u64,
    pub failed: u64,
    /// The longest time between two successes of the same kind of request.
    pub longest_api_gap_ms: u64,
    pub ticks: u64,
    /// Ticks that never came on a connection that stood, came again, or out of order.
    pub ticks_lost: u64,
    /// By the guests' own clocks.
    pub longest_tick_gap_ms: u64,
    /// Consoles, each with a client that doesn't resume and with virtctl.
    pub plain: Sessions,
    pub virtctl: Sessions,
    /// Screens, alike.
    pub screens: Sessions,
    pub virtctl_screens: Sessions,
    pub migrations: u32,
    pub migrations_failed: u32,
    /// VMs that came and went.
    pub lives: u64,
    pub longest_leader_gap_ms: u64,
    /// virt-controller's, if it has one.
    pub controller: Option<Reign>,
    /// A node without a virt-handler that is Ready.
    pub longest_node_gap: Duration,
    /// On how few nodes virt-api ever served.
    pub api_nodes: usize,
    /// When a node had no device for a launcher.
    pub without_devices: Vec<Lack>,
    /// What must never be.
    pub complaints: Vec<String>,
    /// What explains the numbers.
    pub notes: Vec<String>,
}

/// What a scenario may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing is killed and nothing is cut: nobody notices.
    Nothing,
    /// Something is: guests, migrations and sessions of virtctl don't notice.
    WhatWasHit,
    /// A network is: what moves over it stays where it was.
    CutOff,
}

/// Without a leader for so long nobody waits; in milliseconds.
const LEADER_GAP_MS: u64 = 2_000;

impl Row {
    pub fn new(scenario: &str, seconds: f64) -> Self {
        Self { scenario: scenario.to_owned(), seconds, ..Self::default() }
    }

    /// How many sessions there were.
    pub fn sessions(&self) -> u32 {
        self.cut().1
    }

    /// Sessions that were cut, of all.
    pub fn cut(&self) -> (u32, u32) {
        let all = [self.plain, self.virtctl, self.screens, self.virtctl_screens];
        (all.iter().map(|sessions| sessions.cut).sum(), all.iter().map(|sessions| sessions.open).sum())
    }

    /// A node's kubelet was stopped, and started again. A kubelet that starts says that it has no devices until their plugins, which it
    /// has forgotten, have come to it: that once is its own doing, if it passes.
    pub fn forgive_kubelet(&mut self, node: &str, stopped: Timestamp) {
        let own = |lack: &Lack| lack.node == node && lack.from >= stopped && lack.until.is_some();
        if let Some(index) = self.without_devices.iter().position(own) {
            let lack = self.without_devices.remove(index);
            self.notes.push(format!("as every kubelet that starts: {lack}"));
        }
    }

    fn typed_lost(&self) -> u64 {
        let all = [self.plain, self.virtctl, self.screens, self.virtctl_screens];
        all.iter().map(|sessions| sessions.typed_lost).sum()
    }

    /// Counts a screen; `answers` is what the guest got from its keyboard.
    pub fn add_screen(&mut self, vmi: &str, with: With, viewed: &Viewed, answers: &Echoes) {
        let (lost, again) = answers.amiss(viewed.typed, viewer::typed_line);
        let screens = match with {
            With::PlainClient => &mut self.screens,
            With::Virtctl => &mut self.virtctl_screens,
        };
        *screens += Sessions { open: 1, cut: viewed.cut, resumed: viewed.resumed, typed_lost: lost + again };
        self.notes.push(format!(
            "screen of {vmi} ({with:?}): {} pictures, longest gap {} ms; of {} lines typed {lost} bytes never came, {again} \
             again or late",
            viewed.pictures, viewed.longest_gap_ms, viewed.typed
        ));
        self.notes.extend(viewed.causes.iter().map(|cause| format!("screen of {vmi} cut: {cause}")));
    }

    /// Why it costs more than it may; nothing when it doesn't.
    pub fn verdict(&self, demand: Demand) -> Vec<String> {
        let mut wrong = self.complaints.clone();
        let mut must_be_zero = |what: &str, count: u64| {
            if count > 0 {
                wrong.push(format!("{what}: {count}"));
            }
        };
        must_be_zero("ticks lost or repeated", self.ticks_lost);
        if demand != Demand::CutOff {
            must_be_zero("migrations failed", self.migrations_failed.into());
        }
        must_be_zero(
            "sessions of virtctl that ended",
            u64::from(self.virtctl.cut) + u64::from(self.virtctl_screens.cut),
        );
        must_be_zero(
            "bytes typed with virtctl that were lost or repeated",
            self.virtctl.typed_lost + self.virtctl_screens.typed_lost,
        );
        if demand == Demand::Nothing {
            must_be_zero("requests failed", self.failed);
            must_be_zero("sessions cut", self.cut().0.into());
            must_be_zero("bytes typed that were lost or repeated", self.typed_lost());
            must_be_zero(
                "milliseconds without a virt-handler on a node",
                self.longest_node_gap.as_millis() as u64,
            );
            wrong.extend(self.without_devices.iter().map(Lack::to_string));
            if self.api_nodes < 2 {
                wrong.push(format!("virt-api served on {} nodes", self.api_nodes));
            }
            if self.longest_leader_gap_ms >= LEADER_GAP_MS {
                wrong.push(format!("without a leader for {} ms", self.longest_leader_gap_ms));
            }
        }
        if self.ticks == 0 {
            wrong.push("no guest ticked".to_owned());
        }
        wrong
    }

    /// The table of all rows.
    pub fn table(rows: &[Self]) -> String {
        let mut lines = vec![
            "| scenario | seconds | API requests / failed | longest API gap | ticks / lost | sessions / cut | resumed by virtctl | bytes lost | migrations / failed | longest leader gap | longest node gap |".to_owned(),
            "|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(rows.iter().map(|row| {
            let (cut, open) = row.cut();
            format!(
                "| {} | {:.0} | {} / {} | {:.2} s | {} / {} | {open} / {cut} | {} | {} | {} / {} | {:.2} s | {:.1} s |",
                row.scenario,
                row.seconds,
                row.requests,
                row.failed,
                row.longest_api_gap_ms as f64 / 1000.0,
                row.ticks,
                row.ticks_lost,
                row.virtctl.resumed + row.virtctl_screens.resumed,
                row.typed_lost(),
                row.migrations,
                row.migrations_failed,
                row.longest_leader_gap_ms as f64 / 1000.0,
                row.longest_node_gap.as_secs_f64(),
            )
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hit_may_notice_and_nobody_else() {
        let mut row = Row { ticks: 9, api_nodes: 2, ..Row::new("plain", 70.0) };
        assert!(row.verdict(Demand::Nothing).is_empty());
        row.plain = Sessions { open: 3, cut: 1, ..Sessions::default() };
        row.failed = 1;
        assert_eq!(row.verdict(Demand::Nothing), ["requests failed: 1", "sessions cut: 1"]);
        assert!(row.verdict(Demand::WhatWasHit).is_empty());
        row.virtctl = Sessions { open: 1, resumed: 2, typed_lost: 4, ..Sessions::default() };
        row.virtctl_screens = Sessions { open: 1, resumed: 2, typed_lost: 3, ..Sessions::default() };
        assert_eq!(
            row.verdict(Demand::WhatWasHit),
            ["bytes typed with virtctl that were lost or repeated: 7"]
        );
        let mut row = Row { ticks: 9, api_nodes: 2, ..Row::new("kubelet", 70.0) };
        let at = |second| Timestamp::from_second(second).expect("it is a time");
        let lack = |node: &str, from, until: Option<i64>| Lack {
            node: node.into(),
            devices: "kvm".into(),
            from: at(from),
            until: until.map(at),
        };
        row.without_devices = vec![
            lack("a", 1, Some(2)),
            lack("b", 3, Some(4)),
            lack("a", 5, Some(6)),
            lack("a", 7, Some(8)),
            lack("a", 9, None),
        ];
        row.forgive_kubelet("a", at(5));
        let left = [lack("a", 1, Some(2)), lack("b", 3, Some(4)), lack("a", 7, Some(8)), lack("a", 9, None)];
        assert_eq!(row.verdict(Demand::Nothing), left.map(|lack| lack.to_string()));
        assert_eq!(Row::new("silent", 1.0).verdict(Demand::WhatWasHit), ["no guest ticked"]);
    }
}
