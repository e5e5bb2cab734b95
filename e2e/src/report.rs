//! The report of an update: what an outside observer measured, as a table and as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::observer::{Order, PodStory};
use crate::probe::Tally;
use crate::ticks::Summary;
use crate::vm::Incarnation;

/// One guest before and during the update.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guest {
    pub name: String,
    pub before: Incarnation,
    pub after: Incarnation,
    /// Ticks in the time before the update, on the same busy machine.
    pub ticks_before: Summary,
    pub ticks_during: Summary,
    /// Consoles that ended by themselves. Allowed for now, and counted.
    pub consoles_dropped: u32,
    pub causes: Vec<String>,
}

/// Something that was demanded, and whether it held.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Demand {
    pub what: String,
    pub held: bool,
    pub seen: String,
}

/// All that was measured.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub from: String,
    pub to: String,
    pub begun: Timestamp,
    pub seconds: f64,
    pub order: Vec<Order>,
    /// Workloads in the order in which the operator first wrote them, from the API server's audit log.
    pub audit_order: Option<Vec<String>>,
    pub requests: BTreeMap<&'static str, Tally>,
    pub guests: Vec<Guest>,
    /// The longest delay of a 100 ms timer on this machine meanwhile: what its load explains.
    pub machine_delay_ms: u64,
    pub pods: Vec<PodStory>,
    pub demands: Vec<Demand>,
}

impl Report {
    /// Whether all that was demanded held.
    pub fn passed(&self) -> bool {
        self.demands.iter().all(|demand| demand.held)
    }

    /// Prints it.
    pub fn print(&self) {
        println!("\nUpdate {} -> {} in {:.0} s, begun {}", self.from, self.to, self.seconds, self.begun);
        println!("\n  {:<18} {:>22} {:>26}", "component", "first new pod", "last new pod ready");
        for part in &self.order {
            let shown = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| self.after_begin(time));
            let (first, last) = (shown(part.first_created), shown(part.last_ready));
            println!("  {:<18} {first:>22} {last:>26}", part.component);
        }
        println!(
            "\n  {:<26} {:>9} {:>7} {:>16} {:>12}",
            "requests", "number", "failed", "longest gap ms", "slowest ms"
        );
        for (name, tally) in &self.requests {
            println!(
                "  {:<26} {:>9} {:>7} {:>16} {:>12}",
                name, tally.requests, tally.failed, tally.longest_gap_ms, tally.slowest_ms
            );
            for failure in &tally.failures {
                println!("      {failure}");
            }
        }
        println!(
            "\n  {:<10} {:>7} {:>8} {:>12} {:>22} {:>20} {:>10}",
            "guest", "ticks", "missing", "disordered", "gap ms before/during", "guest gap ms b/d", "consoles"
        );
        for guest in &self.guests {
            let (before, during) = (&guest.ticks_before, &guest.ticks_during);
            println!(
                "  {:<10} {:>7} {:>8} {:>12} {:>22} {:>20} {:>10}",
                guest.name,
                during.ticks,
                during.missing,
                during.disordered,
                format!("{} / {}", before.longest_arrival_gap_ms, during.longest_arrival_gap_ms),
                format!("{} / {}", before.longest_guest_gap_ms, during.longest_guest_gap_ms),
                format!("{} cut", guest.consoles_dropped),
            );
            for cause in &guest.causes {
                println!("      console ended: {cause}");
            }
        }
        println!("  a 100 ms timer of this machine was late by at most {} ms\n", self.machine_delay_ms);
        for demand in &self.demands {
            let mark = if demand.held { "ok  " } else { "FAIL" };
            println!("  {mark} {}: {}", demand.what, demand.seen);
        }
    }

    fn after_begin(&self, time: Timestamp) -> String {
        format!("{:+.1} s", (time - self.begun).total(jiff::Unit::Second).unwrap_or_default())
    }
}
