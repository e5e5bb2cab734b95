//! An operator's day as a text, and the plans that it gives: one line for every plan that differs from the one before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;

use kubevirt_sim::{Cluster, Fault, Operator};
use kubevirt_types::Release;

/// Runs a script and writes down what happens.
fn day(script: &str) -> String {
    let mut cluster = Cluster::new(3, Release::V0_17_0, 42);
    let mut operator = Operator::default();
    let mut told = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(told, "> {line}").unwrap();
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["set", tag] => cluster.set_image_tag(Some(tag)),
            ["lock", "to", "the", "operator"] => cluster.set_image_tag(None),
            ["operator", release] => cluster.set_operator(release.parse().unwrap()),
            ["break", component, release] => {
                cluster.inject(component, release.parse().unwrap(), Fault::ImageMissing)
            }
            ["create", plural] => {
                let answer = cluster.create_instance(plural, "mine");
                writeln!(told, "{}", answer.map_or_else(|why| why, |()| "created".to_owned())).unwrap();
            }
            ["delete", "kubevirt"] => cluster.delete_kubevirt(),
            ["run", seconds] => run(&mut operator, &mut cluster, seconds.parse().unwrap(), &mut told),
            _ => panic!("{line} is no line of a script"),
        }
    }
    told
}

fn run(operator: &mut Operator, cluster: &mut Cluster, seconds: usize, told: &mut String) {
    let mut last = String::new();
    for _ in 0..seconds {
        let outcome = operator.reconcile(cluster, usize::MAX).unwrap();
        operator.watch(cluster).unwrap();
        let plan = outcome.plan;
        let mut text = format!("{:?} {}", plan.direction, plan.stage);
        match &plan.steps[..] {
            [] => {}
            [one] => write!(text, ": {one}").unwrap(),
            [first, .., last] => write!(text, ": {first} ... {last} ({})", plan.steps.len()).unwrap(),
        }
        for wait in &plan.waiting_on {
            write!(text, "\n    waits for {wait}").unwrap();
        }
        if text != last {
            writeln!(told, "{text}").unwrap();
        }
        last = text;
        cluster.tick();
    }
}

#[test]
fn install_update_and_rollback() {
    insta::assert_snapshot!(day("
        run 40
        set v0.18.0
        run 120
        create virtualmachineinstancereplicasets
        set v0.17.0
        run 90
    "));
}

#[test]
fn a_broken_release_and_the_way_back() {
    insta::assert_snapshot!(day("
        run 40
        break virt-handler v0.18.0
        set v0.18.0
        run 60
        create virtualmachineinstancereplicasets
        set v0.17.0
        run 60
    "));
}

#[test]
fn a_new_operator_and_the_end() {
    insta::assert_snapshot!(day("
        run 40
        operator v0.18.0
        run 120
        delete kubevirt
        run 30
    "));
}
