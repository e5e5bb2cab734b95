//! An update's report for people. Pure.

use std::fmt::Write;

use jiff::Timestamp;
use kubevirt_rollout::report::{Component, Outcome, ProbeKind, Sessions, Times, UpdateReport};

use super::progress::COMPONENTS;

/// Nodes that a person is shown: those that took longest.
const NODES_SHOWN: usize = 5;
/// Failures of each kind that a person is shown.
const FAILURES_SHOWN: usize = 5;

/// The report as text.
pub(super) fn text(name: &str, report: &UpdateReport) -> String {
    let mut text = String::new();
    fact(&mut text, "Report", name);
    fact(&mut text, "Update", &format!("{} -> {}", report.from, report.to));
    fact(&mut text, "Outcome", &outcome(report));
    components(&mut text, report);
    availability(&mut text, report);
    unobserved(&mut text, report);
    line(&mut text, "");
    leaders(&mut text, report);
    fact(&mut text, "Sessions", &sessions(report));
    fact(&mut text, "Migrations", &migrations(report));
    for failed in &report.migrations.failures {
        line(&mut text, &format!("  {} {}: {}", clock(failed.at), failed.name, failed.why));
    }
    text.truncate(text.trim_end().len());
    text
}

fn outcome(report: &UpdateReport) -> String {
    let until = report.ended.unwrap_or(report.observed_until);
    let took = until.duration_since(report.started).as_secs();
    let span = format!("{} to {}", clock(report.started), clock(until));
    match &report.outcome {
        None => format!("goes on since {took} s ({span})"),
        Some(Outcome::Completed) => format!("completed after {took} s ({span})"),
        Some(Outcome::Superseded { by }) => {
            format!("given up for {by} after {took} s ({span})")
        }
        Some(Outcome::Failed { cause, returned: true }) => {
            format!("failed, and {} came back, after {took} s ({span}): {cause}", report.from)
        }
        Some(Outcome::Failed { cause, returned: false }) => {
            format!("failed after {took} s ({span}): {cause}")
        }
    }
}

fn components(text: &mut String, report: &UpdateReport) {
    let heading = ["Component", "new pod", "ready", "all ready", "old told", "old pods left"];
    line(text, "");
    row(text, heading.map(str::to_owned));
    for name in COMPONENTS {
        let Some(Component { times, last_ready, old_left, .. }) = report.components.get(name) else {
            continue;
        };
        row(
            text,
            [
                name.to_owned(),
                after(times.created),
                after(times.ready),
                after(*last_ready),
                after(times.old_told),
                old_left.to_string(),
            ],
        );
    }
    for component in report.components.values() {
        nodes(text, component);
    }
}

fn nodes(text: &mut String, component: &Component) {
    let replaced = component.nodes.iter().filter(|(_, times)| times.created.is_some());
    let mut slowest: Vec<(&String, &Times)> = replaced.collect();
    if slowest.is_empty() {
        return;
    }
    slowest.sort_by_key(|(_, times)| std::cmp::Reverse((times.ready.is_none(), times.took())));
    let all = slowest.len() + component.nodes_left_out;
    line(text, &format!("\nSlowest nodes ({} of {all})", slowest.len().min(NODES_SHOWN)));
    for (node, times) in slowest.into_iter().take(NODES_SHOWN) {
        let ready = match times.took() {
            Some(took) => format!("ready {took} s after it was made"),
            None => "never ready".to_owned(),
        };
        line(text, &format!("  {node}: new pod {}, {ready}", after(times.created)));
    }
}

fn availability(text: &mut String, report: &UpdateReport) {
    line(text, "");
    row(text, ["Asked", "requests", "failed", "longest gap", "slowest", ""].map(str::to_owned));
    for (kind, seen) in &report.availability {
        row(
            text,
            [
                kind.to_string(),
                seen.probes.to_string(),
                seen.failed.to_string(),
                length(seen.longest_gap_milliseconds),
                length(seen.slowest_milliseconds),
                String::new(),
            ],
        );
    }
    for (kind, seen) in &report.availability {
        failures(text, *kind, seen);
    }
}

fn failures(text: &mut String, kind: ProbeKind, seen: &kubevirt_rollout::report::Availability) {
    for failure in seen.failures.iter().take(FAILURES_SHOWN) {
        line(text, &format!("  {kind} {}: {}", clock(failure.sent), failure.words));
    }
    let shown = seen.failures.len().min(FAILURES_SHOWN) as u64;
    if let (true, Some(last)) = (seen.failed > shown, &seen.last_failure) {
        let more = seen.failed - shown;
        line(text, &format!("  {kind}: {more} more, the last {}: {}", clock(last.sent), last.words));
    }
}

/// What nobody watched: said first of all that isn't known.
fn unobserved(text: &mut String, report: &UpdateReport) {
    if report.unobserved_milliseconds == 0 {
        return;
    }
    let spans: Vec<String> =
        report.unobserved.iter().map(|span| format!("{} to {}", clock(span.from), clock(span.to))).collect();
    let all = length(report.unobserved_milliseconds);
    line(text, &format!("\nNobody watched for {all}: {}", spans.join(", ")));
}

fn leaders(text: &mut String, report: &UpdateReport) {
    for (lease, seen) in &report.leaders {
        let said = match seen.handovers {
            0 => format!("{lease} kept the lead"),
            1 => format!("{lease} handed over once, {} without one", length(seen.longest_gap_milliseconds)),
            many => format!(
                "{lease} handed over {many} times, at most {} without one",
                length(seen.longest_gap_milliseconds)
            ),
        };
        fact(text, "Leader", &said);
    }
}

fn sessions(report: &UpdateReport) -> String {
    let seen = &report.sessions;
    let Some(open) = seen.open_at_start else { return "no virt-api has said".to_owned() };
    let unobserved = match seen.unobserved {
        0 => String::new(),
        many => format!(", {many} on a virt-api that went while nobody watched"),
    };
    format!(
        "{open} open when it began; carried {} times ({} resumed, {} with bytes missing, {} left to a virt-api that \
         ends), {}; {} cut, {} lost with their virt-api{unobserved}",
        seen.carried(),
        seen.resumed,
        seen.resumed_with_gap,
        seen.left_to_drain,
        longest_gap(seen),
        seen.cut,
        seen.lost,
    )
}

/// How long a session that went on had no virt-handler, and of how many that isn't known.
fn longest_gap(seen: &Sessions) -> String {
    let unknown = match seen.gaps_unknown() {
        0 => String::new(),
        many => format!(" ({many} not known)"),
    };
    match seen.longest_gap() {
        Some(longest) => format!("longest gap {}{unknown}", length(longest)),
        None => "longest gap not known".to_owned(),
    }
}

fn migrations(report: &UpdateReport) -> String {
    let seen = &report.migrations;
    let downtime = seen
        .longest_downtime_milliseconds
        .map(|longest| format!(", no guest stood longer than {}", length(longest)))
        .unwrap_or_default();
    let going = match (seen.in_flight, report.ended) {
        (0, _) => String::new(),
        (many, None) => format!(", {many} in flight"),
        (many, Some(_)) => format!(", {many} carried on when it ended"),
    };
    format!("{} completed, {} failed{going}{downtime}", seen.completed, seen.failed)
}

/// Seconds since the start.
fn after(seconds: Option<i64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:+} s"))
}

fn length(milliseconds: u64) -> String {
    if milliseconds < 10_000 {
        format!("{milliseconds} ms")
    } else {
        format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
    }
}

fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn fact(text: &mut String, name: &str, fact: &str) {
    line(text, &format!("{name:<11}{fact}"));
}

fn row(text: &mut String, cells: [String; 6]) {
    let [first, rest @ ..] = cells;
    let rest: String = rest.iter().map(|cell| format!(" {cell:>13}")).collect();
    line(text, &format!("{first:<16}{rest}"));
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a String takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> UpdateReport {
        serde_json::from_value(json!({
            "from": "v0.17.0", "to": "v0.18.0", "direction": "Update",
            "started": "2026-11-23T10:00:00Z", "ended": "2026-11-23T10:01:11Z",
            "observedUntil": "2026-11-23T10:01:11Z",
            "outcome": {"result": "Completed"},
            "components": {
                "virt-api": {"created": 50, "ready": 55, "lastReady": 60, "oldTold": 61, "oldLeft": 2},
                "virt-handler": {
                    "created": 2, "ready": 6, "lastReady": 30, "oldTold": 31, "oldLeft": 0,
                    "nodes": {
                        "a": {"created": 2, "ready": 6}, "b": {"created": 11, "ready": 30}, "c": {"created": 12}, "d": {},
                    },
                    "nodesLeftOut": 7,
                },
            },
            "availability": {
                "apiServer": {
                    "probes": 355, "failed": 0, "longestGapMilliseconds": 214, "slowestMilliseconds": 12,
                },
                "webhook": {
                    "probes": 142, "failed": 7, "longestGapMilliseconds": 12_340, "slowestMilliseconds": 31,
                    "failures": [
                        {"sent": "2026-11-23T10:00:09.5Z", "answered": "2026-11-23T10:00:09.6Z", "words": "500: no"},
                    ],
                    "lastFailure":
                        {"sent": "2026-11-23T10:00:19.5Z", "answered": "2026-11-23T10:00:19.6Z", "words": "500: still no"},
                },
            },
            "unobserved": [{"from": "2026-11-23T10:00:30Z", "to": "2026-11-23T10:00:31.5Z"}],
            "unobservedMilliseconds": 1500,
            "leaders": {
                "virt-controller": {"handovers": 2, "longestGapMilliseconds": 110},
                "virt-operator": {"handovers": 0, "longestGapMilliseconds": 0},
            },
            "sessions": {
                "openAtStart": 4, "open": 1, "resumed": 4, "resumedWithGap": 1, "cut": 0, "leftToDrain": 3, "lost": 2,
                "longestGapMilliseconds": 250, "gapsKnown": 5,
            },
            "migrations": {
                "inFlight": 1, "completed": 3, "failed": 1, "longestDowntimeMilliseconds": 80,
                "failures": [{"name": "ns/m", "at": "2026-11-23T10:00:12Z", "why": "no room"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_person_sees_what_an_update_was_like() {
        let expected = "\
Report     r
Update     v0.17.0 -> v0.18.0
Outcome    completed after 71 s (2026-11-23T10:00:00Z to 2026-11-23T10:01:11Z)

Component              new pod         ready     all ready      old told old pods left
virt-handler              +2 s          +6 s         +30 s         +31 s             0
virt-api                 +50 s         +55 s         +60 s         +61 s             2

Slowest nodes (3 of 10)
  c: new pod +12 s, never ready
  b: new pod +11 s, ready 19 s after it was made
  a: new pod +2 s, ready 4 s after it was made

Asked                 requests        failed   longest gap       slowest
API server                 355             0        214 ms         12 ms
webhook                    142             7        12.3 s         31 ms
  webhook 2026-11-23T10:00:09Z: 500: no
  webhook: 6 more, the last 2026-11-23T10:00:19Z: 500: still no

Nobody watched for 1500 ms: 2026-11-23T10:00:30Z to 2026-11-23T10:00:31Z

Leader     virt-controller handed over 2 times, at most 110 ms without one
Leader     virt-operator kept the lead
Sessions   4 open when it began; carried 8 times (4 resumed, 1 with bytes missing, 3 left to a virt-api that ends), longest gap 250 ms; 0 cut, 2 lost with their virt-api
Migrations 3 completed, 1 failed, 1 carried on when it ended, no guest stood longer than 80 ms
  2026-11-23T10:00:12Z ns/m: no room";
        assert_eq!(text("r", &report()), expected);
    }

    #[test]
    fn an_outcome_is_a_sentence() {
        let failed = |returned| Outcome::Failed { cause: "it crashes".into(), returned };
        let span = "(2026-11-23T10:00:00Z to 2026-11-23T10:01:11Z)";
        for (ended, expected) in [
            (None, format!("goes on since 71 s {span}")),
            (Some(failed(true)), format!("failed, and v0.17.0 came back, after 71 s {span}: it crashes")),
            (Some(failed(false)), format!("failed after 71 s {span}: it crashes")),
            (
                Some(Outcome::Superseded { by: "v0.19.0".into() }),
                format!("given up for v0.19.0 after 71 s {span}"),
            ),
        ] {
            assert_eq!(outcome(&UpdateReport { outcome: ended, ..report() }), expected);
        }
    }

    #[test]
    fn what_is_not_known_of_sessions_is_said() {
        let with = |change: &dyn Fn(&mut Sessions)| {
            let mut report = report();
            report.sessions = Sessions { open_at_start: Some(4), ..Sessions::default() };
            change(&mut report.sessions);
            let text = sessions(&report);
            text.split_once("), ").unwrap().1.to_owned()
        };
        type Change = dyn Fn(&mut Sessions);
        let table: [(&Change, &str); 3] = [
            (&|_| {}, "longest gap 0 ms; 0 cut, 0 lost with their virt-api"),
            (&|seen| seen.resumed = 3, "longest gap not known; 0 cut, 0 lost with their virt-api"),
            (
                &|seen| {
                    (seen.resumed, seen.gaps_known, seen.longest_gap_milliseconds) = (3, 2, 90);
                    seen.unobserved = 1;
                },
                "longest gap 90 ms (1 not known); 0 cut, 0 lost with their virt-api, 1 on a virt-api that went while \
                 nobody watched",
            ),
        ];
        for (change, expected) in table {
            assert_eq!(with(change), expected);
        }
        let mut going_on = report();
        going_on.ended = None;
        assert!(migrations(&going_on).contains("1 in flight"));
    }
}
