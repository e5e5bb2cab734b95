//! The report that the update left, held against what was measured from outside.

use std::collections::BTreeSet;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use kubevirt_types::Release;
use serde_json::Value;

use super::row::Row;
use crate::virtctl;

/// The operator and the outside see begin and end so far apart, in seconds: the patch is seen by a watch, the end by polling.
const APART: f64 = 15.0;

/// What was seen from outside of one update, or of several.
pub struct Outside<'a> {
    pub row: &'a Row,
    /// The nodes whose virt-handler is replaced.
    pub nodes: &'a [String],
    /// Whether the row is of this one update alone.
    pub alone: bool,
}

/// Reads a report, the newest being the first; returns where it says something else than was seen. Of an update in which nothing
/// was hit.
pub async fn complaints(
    outside: &Outside<'_>,
    place: usize,
    (from, to): (&Release, &Release),
) -> anyhow::Result<Vec<String>> {
    let report = read(place).await?;
    let row = outside.row;
    let mut wrong = Vec::new();
    let mut must = |what: &str, held: bool, said: &Value, seen: String| {
        if !held {
            wrong.push(format!("report {place}'s {what}: {said}, seen from outside: {seen}"));
        }
    };
    must("from", report["from"] == from.to_string(), &report["from"], from.to_string());
    must("to", report["to"] == to.to_string(), &report["to"], to.to_string());
    let outcome = &report["outcome"]["result"];
    must("outcome", outcome == "Completed", outcome, "it came to its end".into());
    for kind in ["apiServer", "webhook", "subresource"] {
        let asked = &report["availability"][kind];
        let healthy = asked["probes"].as_u64().is_some_and(|probes| probes > 0) && asked["failed"] == 0;
        must(kind, healthy, asked, format!("{} of {} requests failed", row.failed, row.requests));
    }
    let sessions = &report["sessions"];
    must("sessions", sessions["cut"] == 0 && sessions["lost"] == 0, sessions, "none was cut".into());
    let handlers = report["components"]["virt-handler"]["nodes"].as_object().cloned().unwrap_or_default();
    let named: BTreeSet<&String> = handlers.keys().collect();
    let nodes: BTreeSet<&String> = outside.nodes.iter().collect();
    must("nodes", named == nodes, &report["components"]["virt-handler"], format!("{nodes:?}"));
    for (name, handler) in &handlers {
        let replaced = handler["ready"].as_i64().zip(handler["oldTold"].as_i64());
        must(
            "virt-handler",
            replaced.is_some_and(|(ready, told)| ready <= told),
            handler,
            format!("{name} was never without one"),
        );
    }
    if outside.alone {
        let time = |name: &str| report[name].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let seconds =
            time("started").zip(time("ended")).map(|(start, end)| end.duration_since(start).as_secs_f64());
        must(
            "length",
            seconds.is_some_and(|seconds| (seconds - row.seconds).abs() <= APART),
            &report["ended"],
            format!("{:.0} s, it says {seconds:?}", row.seconds),
        );
        // Later on some are on virt-apis that only drain.
        let open = u64::from(row.sessions());
        must("open sessions", sessions["openAtStart"].as_u64() >= Some(open), sessions, format!("{open}"));
        let said = &report["leaders"]["virt-controller"];
        let controller = row.controller.as_ref();
        let gap = controller.map_or(SignedDuration::ZERO, |reign| reign.longest_gap);
        let said_gap = SignedDuration::from_millis(said["longestGapMilliseconds"].as_i64().unwrap_or(-1));
        must(
            "leaders",
            controller.is_some_and(|reign| said["handovers"] == reign.changes)
                && (said_gap - gap).abs() <= SignedDuration::from_millis(1),
            said,
            format!("{controller:?}"),
        );
        let moved = &report["migrations"];
        let carried = ["completed", "inFlight"].iter().filter_map(|name| moved[*name].as_u64()).sum::<u64>();
        must(
            "migrations",
            moved["failed"] == row.migrations_failed
                && carried == u64::from(row.migrations - row.migrations_failed),
            moved,
            format!("{} moved, {} failed", row.migrations, row.migrations_failed),
        );
    }
    Ok(wrong)
}

/// What the newest report says of an update in which something was hit, and what was seen: it isn't one of an update in which all
/// went well.
pub async fn complaints_of_a_hit(row: &Row, what: &str) -> anyhow::Result<Vec<String>> {
    let report = read(1).await?;
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let sum = |paths: &[&str]| paths.iter().map(|path| number(path)).sum::<u64>();
    let mut wrong = Vec::new();
    let (cut, _) = row.cut();
    let lost = sum(&["/sessions/cut", "/sessions/lost", "/sessions/unobserved", "/unobservedMilliseconds"]);
    if cut > 0 && lost == 0 {
        wrong.push(format!(
            "{what}: {cut} sessions were cut, the report knows of none: {}",
            report["sessions"]
        ));
    }
    let kinds = ["apiServer", "webhook", "subresource"];
    let failed: u64 = kinds.iter().map(|kind| number(&format!("/availability/{kind}/failed"))).sum();
    // Where the operator was hit, too, it says that nobody watched.
    if row.failed > 20 && failed + number("/unobservedMilliseconds") == 0 {
        wrong.push(format!(
            "{what}: {} requests failed, the report knows of none: {}",
            row.failed, report["availability"]
        ));
    }
    Ok(wrong)
}

async fn read(place: usize) -> anyhow::Result<Value> {
    let said = virtctl::said(&["update", "report", "--index", &place.to_string(), "-o", "json"]).await?;
    serde_json::from_str(&said).with_context(|| format!("reading report {place}"))
}
