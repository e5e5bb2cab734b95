//! Limits, order and backoff.

use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_types::labels;
use kubevirt_types::migration::MigrationConfiguration;
use serde_json::json;

use super::{Other, Turn, not_before, rival, turn};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// "name age phase node words...": a migration of instance `vmi-<name>`.
fn other(described: &str) -> Other {
    let mut words = described.split_whitespace();
    let mut next = || words.next().unwrap().to_owned();
    let (name, age, phase, node) = (next(), next(), next(), next());
    let made = at(1_000 - age.parse::<i64>().unwrap());
    let phase = if phase == "Unset" { String::new() } else { phase };
    let mut object = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": made.to_string()},
        "spec": {"vmiName": format!("vmi-{name}")},
        "status": {"phase": phase},
    });
    let mut has_pod = false;
    for word in words {
        match word.split_once('=') {
            Some(("vmi", vmi)) => object["spec"]["vmiName"] = json!(vmi),
            Some(("ended", second)) => {
                let ended = at(second.parse().unwrap()).to_string();
                object["status"]["phaseTransitionTimestamps"] =
                    json!([{"phase": phase, "phaseTransitionTimestamp": ended}]);
            }
            None if word == "pod" => has_pod = true,
            None if word == "drain" => {
                object["metadata"]["annotations"] = json!({labels::EVACUATION_MIGRATION: "n1"});
            }
            None if word == "deleting" => {
                object["metadata"]["deletionTimestamp"] = json!(at(1_000).to_string());
            }
            None if word == "refused" => {
                object["status"]["conditions"] =
                    json!([{"type": "Waiting", "status": "True", "reason": "FailedCreate"}]);
            }
            other => panic!("{other:?}"),
        }
    }
    let migration = Arc::new(serde_json::from_value(object).unwrap());
    Other { migration, source_node: Some(node).filter(|node| node != "-"), has_pod }
}

#[test]
fn limits_and_order() {
    let table: &[(&[&str], &str)] = &[
        (&[], "now"),
        (&["a 9 Running n2", "b 9 Scheduling n2"], "now"),
        (&["a 9 Running n2", "b 9 Scheduling n2", "c 9 TargetReady n3"], "cluster 3"),
        (&["a 9 Running n1", "b 9 Scheduled n1"], "n1 2"),
        (&["a 9 Running n1", "b 9 PreparingTarget n2"], "now"),
        (&["a 9 Succeeded n1", "b 9 Failed n1", "c 9 Unset n1"], "now"),
        // The older go first, the younger don't count.
        (&["a 9 Pending n1", "b 9 Pending n1"], "n1 2"),
        (&["a 1 Pending n1", "b 1 Pending n1"], "now"),
        (&["a 9 Pending n2", "b 9 Pending n2", "c 9 Pending n3"], "cluster 3"),
        // Equally old: by name.
        (&["a 5 Pending n1", "b 5 Pending n1"], "n1 2"),
        (&["x 5 Pending n1", "y 5 Pending n1"], "now"),
        // One that waits for its own node takes no place in the cluster.
        (&["a 8 Running n2", "b 8 Running n2", "c 9 Pending n2"], "now"),
        // Those that can't go hold up nobody.
        (&["a 9 Pending n1 refused", "b 9 Pending n1 deleting"], "now"),
        (&["a 9 Pending n1 drain vmi=v", "z 99 Failed - vmi=v ended=990", "b 9 Pending n1"], "now"),
        (&["a 9 Pending n1 drain vmi=v", "z 99 Failed - vmi=v ended=900", "b 9 Pending n1"], "n1 2"),
        // A pod counts before the phase says so.
        (&["a 1 Pending n1 pod", "b 1 Pending n1 pod"], "n1 2"),
        // More than a lowered limit allows.
        (&["a 9 Running n2", "b 9 Running n2", "c 9 Running n2", "d 9 Running n2"], "cluster 3"),
    ];
    let limits = MigrationConfiguration {
        parallel_migrations_per_cluster: Some(3),
        parallel_outbound_migrations_per_node: Some(2),
        ..MigrationConfiguration::default()
    };
    for (others, expected) in table {
        let me = other("m 5 Pending n1");
        let mut all: Vec<Other> = others.iter().map(|described| other(described)).collect();
        all.push(me.clone());
        let told = match turn(&me.migration, Some("n1"), &all, &limits, at(1_000)) {
            Turn::Now => "now".to_owned(),
            Turn::ClusterFull { limit } => format!("cluster {limit}"),
            Turn::NodeFull { node, limit } => format!("{node} {limit}"),
        };
        assert_eq!(told, *expected, "{others:?}");
    }
}

#[test]
fn the_wait_of_a_drain_doubles() {
    let wait = |me: &str, others: &[&str]| {
        let all: Vec<Other> = others.iter().map(|described| other(described)).collect();
        not_before(&other(me).migration, &all).map(|due| due.as_second() - 1_000)
    };
    let failed =
        |age: u32| format!("f{age} {age} Failed - vmi=v ended={}", if age == 1 { 1_000 } else { 500 });
    let failures: Vec<String> = (1..=6).map(failed).collect();
    let waits: Vec<_> = (0..=6)
        .map(|n| {
            let ended: Vec<&str> = failures.iter().take(n).map(String::as_str).collect();
            wait("m 0 Pending n1 drain vmi=v", &ended)
        })
        .collect();
    assert_eq!(waits, [None, Some(20), Some(40), Some(80), Some(160), Some(300), Some(300)]);
    // A success forgets what was before it.
    let mended = ["f1 1 Failed - vmi=v ended=1000", "s 2 Succeeded - vmi=v", "f3 3 Failed - vmi=v ended=500"];
    assert_eq!(wait("m 0 Pending n1 drain vmi=v", &mended), Some(20));
    assert_eq!(wait("m 0 Pending n1 drain vmi=v", &["s 1 Succeeded - vmi=v"]), None);
    // People don't wait, and others' failures are nobody's business.
    assert_eq!(wait("m 0 Pending n1 vmi=v", &["f1 1 Failed - vmi=v ended=1000"]), None);
    assert_eq!(wait("m 0 Pending n1 drain vmi=v", &["f1 1 Failed - vmi=w ended=1000"]), None);
}

#[test]
fn of_two_of_an_instance_the_older_goes_or_the_one_that_began() {
    let table: &[(&str, bool)] = &[
        ("a 9 Pending n1 vmi=v", true),
        ("a 1 Pending n1 vmi=v", false),
        ("a 5 Pending n1 vmi=v", true),
        ("x 5 Pending n1 vmi=v", false),
        ("a 1 Scheduling n1 vmi=v", true),
        ("a 1 Pending n1 pod vmi=v", true),
        ("a 9 Failed n1 vmi=v", false),
        ("a 9 Pending n1 vmi=w", false),
        ("a 9 Unset n1 vmi=v", true),
    ];
    for (described, expected) in table {
        let me = other("m 5 Pending n1 vmi=v");
        let all = [other(described), me.clone()];
        assert_eq!(rival(&me.migration, &all).is_some(), *expected, "{described}");
    }
}
