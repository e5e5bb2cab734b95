//! An operator's day as a text, and the plans that it gives: one line for every plan that differs from the one before,
//! with the time since the day began.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use kubevirt_rollout::Plan;
use kubevirt_sim::{Cluster, Fault, Operator};
use kubevirt_types::Release;
use kubevirt_types::kubevirt::OnFailure;
use support::condition;

/// A fault by its words in a script.
fn fault(words: &[&str]) -> Fault {
    match words {
        ["image", "missing"] => Fault::ImageMissing,
        ["crashes"] => Fault::Crashes,
        ["init", "crashes"] => Fault::InitCrashes,
        ["unschedulable"] => Fault::Unschedulable,
        ["never", "ready"] => Fault::NeverReady,
        ["node", "unable"] => Fault::NodeUnable,
        ["silent"] => Fault::Silent,
        ["crashes", "after", seconds] => Fault::CrashesAfter(seconds.parse().unwrap()),
        _ => panic!("{words:?} is no fault"),
    }
}

/// A day that is told.
struct Day {
    operator: Operator,
    cluster: Cluster,
    began: Timestamp,
    last: String,
    told: String,
}

impl Day {
    fn line(&mut self, text: &str) {
        let at = self.cluster.now().duration_since(self.began).as_secs();
        writeln!(self.told, "{at:4} {text}").unwrap();
    }

    /// One line of a script.
    fn act(&mut self, line: &str) {
        let cluster = &mut self.cluster;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["set", tag] => cluster.set_image_tag(Some(tag)),
            ["lock", "to", "the", "operator"] => cluster.set_image_tag(None),
            ["operator", release] => cluster.set_operator(release.parse().unwrap()),
            ["break", component, release, ref words @ ..] => {
                cluster.inject(component, release.parse().unwrap(), fault(words));
            }
            ["heal"] => cluster.heal(),
            ["on", "failure", "pause"] => cluster.set_on_failure(OnFailure::Pause),
            ["retry"] => cluster.retry_update(),
            ["cosmetic", "edit"] => cluster.set_log_verbosity(),
            ["lose", node] => cluster.lose_node(node),
            ["return", node] => cluster.return_node(node),
            ["an", "hour", "passes"] => cluster.advance(SignedDuration::from_hours(1)),
            ["create", plural] => {
                let answer = cluster.create_instance(plural, "mine");
                let told = answer.map_or_else(|why| why, |()| "created".to_owned());
                self.line(&told);
            }
            ["delete", "kubevirt"] => cluster.delete_kubevirt(),
            ["condition", type_] => {
                let (status, message) = condition(&self.cluster, type_);
                self.line(&format!("{type_}={status}: {message}"));
            }
            ["run", seconds] => {
                for _ in 0..seconds.parse().unwrap() {
                    self.second();
                }
            }
            _ => panic!("{line} is no line of a script"),
        }
    }

    fn second(&mut self) {
        if let Some(outcome) = self.operator.second(&mut self.cluster).unwrap() {
            self.tell(&outcome.plan);
        }
        self.cluster.tick();
        self.operator.watch(&self.cluster).unwrap();
    }

    fn tell(&mut self, plan: &Plan) {
        let mut text = format!("{:?} {}", plan.direction, plan.stage);
        match &plan.steps[..] {
            [] => {}
            [one] => write!(text, ": {one}").unwrap(),
            [first, .., last] => write!(text, ": {first} ... {last} ({})", plan.steps.len()).unwrap(),
        }
        for wait in &plan.waiting_on {
            write!(text, "\n       waits for {wait}").unwrap();
        }
        if text != self.last {
            self.line(&text);
        }
        self.last = text;
    }
}

/// Runs a script and writes down what happens.
fn day(script: &str) -> String {
    let cluster = Cluster::new(3, Release::V0_17_0, 42);
    let began = cluster.now();
    let mut day =
        Day { operator: Operator::default(), cluster, began, last: String::new(), told: String::new() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(day.told, "> {line}").unwrap();
        day.act(line);
    }
    day.told
}

/// A day that begins with an installation which is there for a while; only what comes then is told.
fn later_that_day(script: &str) -> String {
    let told = day(&format!("run 40\nan hour passes\nrun 2\n{}", script.trim_start()));
    told.split_once("> run 2\n").unwrap().1.to_owned()
}

#[test]
fn install_update_and_rollback() {
    insta::assert_snapshot!(day("
        run 40
        an hour passes
        set v0.18.0
        run 400
        create virtualmachineinstancereplicasets
        set v0.17.0
        run 400
    "));
}

#[test]
fn a_new_operator_and_the_end() {
    insta::assert_snapshot!(later_that_day(
        "
        operator v0.18.0
        run 400
        delete kubevirt
        run 30
    "
    ));
}

/// A virt-handler with a fault: what is said, and how it goes back by itself.
fn a_handler_that(words: &str) -> String {
    later_that_day(&format!(
        "
        break virt-handler v0.18.0 {words}
        set v0.18.0
        run 340
        condition Degraded
        condition Available
    "
    ))
}

#[test]
fn a_handler_whose_image_is_missing() {
    insta::assert_snapshot!(a_handler_that("image missing"));
}

#[test]
fn a_handler_that_crashes() {
    insta::assert_snapshot!(a_handler_that("crashes"));
}

#[test]
fn a_handler_whose_init_container_crashes() {
    insta::assert_snapshot!(a_handler_that("init crashes"));
}

#[test]
fn a_handler_that_finds_no_room() {
    insta::assert_snapshot!(a_handler_that("unschedulable"));
}

#[test]
fn a_handler_that_is_never_ready() {
    insta::assert_snapshot!(a_handler_that("never ready"));
}

#[test]
fn a_handler_that_makes_its_node_unable() {
    insta::assert_snapshot!(a_handler_that("node unable"));
}

#[test]
fn a_handler_that_crashes_a_minute_after_it_was_ready() {
    insta::assert_snapshot!(a_handler_that("crashes after 60"));
}

#[test]
fn a_controller_and_then_an_api_that_fail() {
    insta::assert_snapshot!(later_that_day(
        "
        break virt-controller v0.18.0 crashes
        set v0.18.0
        run 420
        heal
        break virt-api v0.18.0 image missing
        retry
        run 700
        condition Degraded
    "
    ));
}

#[test]
fn a_pause_and_another_try() {
    insta::assert_snapshot!(later_that_day(
        "
        on failure pause
        break virt-handler v0.18.0 never ready
        set v0.18.0
        run 260
        condition Degraded
        heal
        run 20
        retry
        run 400
        condition Degraded
    "
    ));
}

#[test]
fn a_failed_update_that_is_tried_again_when_it_is_mended() {
    insta::assert_snapshot!(later_that_day(
        "
        break virt-handler v0.18.0 crashes
        set v0.18.0
        run 150
        condition Degraded
        heal
        retry
        run 400
        condition Degraded
    "
    ));
}

#[test]
fn a_node_that_is_lost_during_an_update_and_comes_back() {
    insta::assert_snapshot!(later_that_day(
        "
        set v0.18.0
        run 30
        lose node-2
        run 500
        condition Degraded
        return node-2
        run 120
        condition Degraded
    "
    ));
}

#[test]
fn back_again_in_the_middle() {
    insta::assert_snapshot!(later_that_day(
        "
        set v0.18.0
        run 120
        set v0.17.0
        run 250
    "
    ));
}

#[test]
fn a_cosmetic_edit_rolls_nothing() {
    insta::assert_snapshot!(later_that_day(
        "
        cosmetic edit
        run 30
        set v0.18.0
        run 60
        cosmetic edit
        run 300
    "
    ));
}
