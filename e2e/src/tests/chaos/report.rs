//! The report that the update left, held against what was measured from outside.

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use kubevirt_types::Release;
use serde_json::Value;

use super::row::Row;
use crate::leaders::Reign;
use crate::virtctl;

/// The operator and the outside see begin and end so far apart, in seconds: the patch is seen by a watch, the end by polling.
const APART: f64 = 15.0;

/// Reads the newest report; returns where it says something else than was seen. Of an update in which nothing was hit.
pub async fn complaints(
    row: &Row,
    controller: Option<&Reign>,
    (from, to): (&Release, &Release),
) -> anyhow::Result<Vec<String>> {
    let report = virtctl::said(&["update", "report", "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&report).context("reading the report")?;
    let mut wrong = Vec::new();
    let mut must = |what: &str, held: bool, said: &Value, seen: String| {
        if !held {
            wrong.push(format!("the report's {what}: {said}, seen from outside: {seen}"));
        }
    };
    must("from", report["from"] == from.to_string(), &report["from"], from.to_string());
    must("to", report["to"] == to.to_string(), &report["to"], to.to_string());
    let outcome = &report["outcome"]["result"];
    must("outcome", outcome == "Completed", outcome, "it came to its end".into());
    let time = |name: &str| report[name].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let seconds =
        time("started").zip(time("ended")).map(|(start, end)| end.duration_since(start).as_secs_f64());
    must(
        "length",
        seconds.is_some_and(|seconds| (seconds - row.seconds).abs() <= APART),
        &report["ended"],
        format!("{:.0} s, it says {seconds:?}", row.seconds),
    );
    for kind in ["apiServer", "webhook", "subresource"] {
        let asked = &report["availability"][kind];
        let healthy = asked["probes"].as_u64().is_some_and(|probes| probes > 0) && asked["failed"] == 0;
        must(kind, healthy, asked, format!("{} of {} requests failed", row.failed, row.requests));
    }
    let said = &report["leaders"]["virt-controller"];
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
    must(
        "migrations",
        moved["failed"] == row.migrations_failed,
        moved,
        format!("{} failed", row.migrations_failed),
    );
    let cut = &report["sessions"]["cut"];
    must("sessions", *cut == 0, cut, "none was cut".into());
    for (name, handler) in report["components"]["virt-handler"]["nodes"].as_object().into_iter().flatten() {
        let replaced = handler["ready"].as_i64().zip(handler["oldTold"].as_i64());
        must(
            "virt-handler",
            replaced.is_some_and(|(ready, told)| ready <= told),
            handler,
            format!("{name} was never without one"),
        );
    }
    Ok(wrong)
}
