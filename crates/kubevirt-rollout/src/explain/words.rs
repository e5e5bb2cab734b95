//! Words that the explanations have in common: stages, times, names.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::plan::{Direction, Stage};

/// A clock shows only the time of the day; what is longer ago needs its date.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);
/// More names than this make no line.
const NAMED: usize = 3;

/// What happens in a stage.
pub fn about(stage: Stage) -> &'static str {
    match stage {
        Stage::Blocked => "nothing can be done",
        Stage::Finalizer => "the finalizer of the KubeVirt object",
        Stage::Strategy => "the target's manifests",
        Stage::Guard => "the guard against kinds that not every release has",
        Stage::Crds => "CustomResourceDefinitions of both releases",
        Stage::Rbac => "access rules of both releases",
        Stage::Certificates => "the CA and its certificates",
        Stage::Services => "Services and disruption budgets",
        Stage::Handlers => "virt-handler, one node first",
        Stage::Controllers => "virt-controller",
        Stage::Reports => "reports of every controller and handler",
        Stage::Webhooks => "webhooks and APIServices that every virt-api can answer",
        Stage::Api => "virt-api",
        Stage::Workloads => "virt-handler, virt-controller and virt-api",
        Stage::NewWebhooks => "webhooks and APIServices of the target",
        Stage::ExactCrds => "CustomResourceDefinitions of the target only",
        Stage::DropGuard => "the end of the guard",
        Stage::ExactRbac => "access rules of the target only",
        Stage::Orphans => "deletion of what the target doesn't have",
        Stage::StoredVersions => "objects that are stored as an old version",
        Stage::Instances => "deletion of virtual machines",
        Stage::DeleteCrds => "deletion of CustomResourceDefinitions",
        Stage::DeleteWebhooks => "deletion of webhooks and APIServices",
        Stage::DeleteWorkloads => "deletion of virt-handler, virt-controller and virt-api",
        Stage::DeleteRest => "deletion of everything else",
        Stage::Nodes => "labels of the nodes",
        Stage::RemoveFinalizer => "removal of the finalizer",
        Stage::Settled => "all is as it is wanted",
    }
}

/// A time of the day, or a date where it is far away.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let far = at.duration_since(now).abs() >= A_DAY;
    at.strftime(if far { "%Y-%m-%dT%H:%M:%SZ" } else { "%H:%M:%SZ" }).to_string()
}

/// Since when, and how long that is.
pub fn since(at: Timestamp, now: Timestamp) -> String {
    format!("since {}, {}", clock(at, now), long(now.duration_since(at)))
}

/// How long something takes, as exactly as a person wants it.
pub fn long(time: SignedDuration) -> String {
    match time.as_secs().max(0) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// `node a`, or `nodes a, b`, or the first few and how many more.
pub fn nodes(names: &[String]) -> String {
    let some = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("node {some}"),
        all if all > NAMED => format!("nodes {some} and {} more", all - NAMED),
        _ => format!("nodes {some}"),
    }
}

/// Names in order, each once.
pub fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// What a change in a direction is called.
pub fn change(direction: Direction) -> &'static str {
    match direction {
        Direction::Install => "installation",
        Direction::Update => "update",
        Direction::Rollback => "rollback",
        Direction::SameVersion => "change",
        Direction::Uninstall => "uninstall",
        Direction::Nothing | Direction::Steady => "repair",
    }
}

/// The name of a direction, for machines.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Nothing => "Nothing",
        Direction::Install => "Install",
        Direction::Update => "Update",
        Direction::Rollback => "Rollback",
        Direction::SameVersion => "SameVersion",
        Direction::Steady => "Steady",
        Direction::Uninstall => "Uninstall",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nodes_than_a_line_takes_are_counted() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let told: Vec<String> = (1..=5).map(|count| nodes(&names[..count])).collect();
        assert_eq!(
            told,
            ["node a", "nodes a, b", "nodes a, b, c", "nodes a, b, c and 1 more", "nodes a, b, c and 2 more"]
        );
    }
}
