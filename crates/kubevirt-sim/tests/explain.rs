//! What `virtctl update explain` says during an update, second by second: the times that it names come true.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use jiff::Timestamp;
use kubevirt_rollout::explain::{Explanation, Overview, StageState, State, explain, overview};
use kubevirt_rollout::{Plan, Policy, Stage};
use kubevirt_sim::{Cluster, Fault, Operator};
use kubevirt_types::Release;
use kubevirt_types::kubevirt::OnFailure;
use support::installed;

/// Seconds without anything to do after which nothing more is expected.
const QUIET: usize = 5;

/// What is said after each second, with when, until it has been said that all is over for a while.
fn follow(operator: &mut Operator, cluster: &mut Cluster) -> Vec<(Timestamp, Explanation)> {
    let policy = Policy::default();
    let mut told: Vec<(Timestamp, Explanation)> = Vec::new();
    let mut rest = 0;
    while rest < QUIET && told.len() < support::BOUND {
        let outcome = operator.reconcile(cluster, usize::MAX).unwrap();
        operator.watch(cluster).unwrap();
        let (observed, plan, now) = (cluster.observe(), outcome.plan, cluster.now());
        let explanation = explain(&observed, &plan, &policy, now);
        whole(&explanation);
        if told
            .last()
            .is_none_or(|(_, last)| last.subject != explanation.subject || last.next != explanation.next)
        {
            one_stage(&overview(&observed, &plan, &policy, now), &plan);
        }
        let over = plan.stage == Stage::Settled || explanation.state == State::Paused;
        rest = if over { rest + 1 } else { 0 };
        told.push((now, explanation));
        cluster.tick();
    }
    told
}

/// Exactly the plan's stage is being carried out.
fn one_stage(overview: &Overview, plan: &Plan) {
    let present: Vec<&str> = overview
        .stages
        .iter()
        .filter(|row| row.state == StageState::Now)
        .map(|row| row.stage.as_str())
        .collect();
    match plan.stage {
        Stage::Settled => assert!(present.is_empty(), "{present:?}"),
        stage => assert_eq!(present, [overview.stage.as_str()], "{stage}"),
    }
    assert_eq!(overview.steps.len(), plan.steps.len());
    assert_eq!(overview.waiting_for.len(), plan.waiting_on.len());
}

/// One line that says something, and what comes next where something is wrong.
fn whole(explanation: &Explanation) {
    let Explanation { line, state, subject, next, .. } = explanation;
    assert!(!line.contains('\n') && line.starts_with(subject) && !subject.is_empty(), "{line}");
    assert!(!line.contains("  ") && !line.contains("; ;") && !line.ends_with([' ', ':', ';']), "{line}");
    if !matches!(state, State::Settled) {
        assert!(next.as_ref().is_some_and(|next| !next.is_empty()), "{line}");
    }
}

/// The states in their order, each once. A virt-handler takes a moment to take charge of its node.
fn states(told: &[(Timestamp, Explanation)]) -> Vec<State> {
    let states: Vec<State> = told.iter().map(|(_, explanation)| explanation.state).collect();
    let lasting =
        states.chunk_by(PartialEq::eq).filter(|stretch| stretch[0] != State::InTrouble || stretch.len() > 3);
    let mut states: Vec<State> = lasting.map(|stretch| stretch[0]).collect();
    states.dedup();
    states
}

/// All that was said, but not how many seconds something takes.
fn lines(told: &[(Timestamp, Explanation)]) -> String {
    let mut said: Vec<&Explanation> = told.iter().map(|(_, said)| said).collect();
    said.dedup_by_key(|said| (said.state, &said.what, &said.next));
    said.iter().map(|said| said.line.as_str()).collect::<Vec<_>>().join("\n")
}

fn last(told: &[(Timestamp, Explanation)]) -> &str {
    &told.last().unwrap().1.line
}

#[test]
fn an_update_is_on_its_way_and_then_settled() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    let told = follow(&mut operator, &mut cluster);
    assert_eq!(states(&told), [State::InProgress, State::Settled], "{}", lines(&told));
    assert_eq!(last(&told), "settled at v0.18.0");
    // What was said of the canary: the others follow when it said so.
    let in_charge =
        |explanation: &&(Timestamp, Explanation)| explanation.1.line.contains("it is in charge of its node");
    let promised: Vec<Timestamp> =
        told.iter().filter(in_charge).map(|(_, said)| said.until.unwrap()).collect();
    let until = *promised.last().expect("a canary was tried");
    let followed = told.iter().filter(in_charge).map(|(at, _)| *at).max().unwrap();
    let late = followed.duration_since(until).as_secs();
    assert!((-1..=1).contains(&late), "{late} s after the time that was said");
}

#[test]
fn an_image_that_is_missing_is_given_up_when_it_was_said_to_be() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.inject("virt-handler", Release::V0_18_0, Fault::ImageMissing);
    cluster.set_image_tag(Some("v0.18.0"));
    let told = follow(&mut operator, &mut cluster);
    let expected = [State::InProgress, State::InTrouble, State::Returning, State::Returned];
    assert_eq!(states(&told), expected, "{}", lines(&told));
    let (_, trouble) = told.iter().rfind(|(_, said)| said.state == State::InTrouble).unwrap();
    assert!(trouble.line.contains("ErrImagePull"), "{}", trouble.line);
    assert!(trouble.line.ends_with("the update is given up and v0.17.0 comes back"), "{}", trouble.line);
    assert_eq!(trouble.nodes.len(), 1, "one node is affected");
    let found = cluster.kubevirt().unwrap().status.as_ref().unwrap().failed_update.as_ref().unwrap().at;
    let late = found.duration_since(trouble.until.unwrap()).as_secs();
    assert!((0..=2).contains(&late), "found {late} s after the time that was said");
    let end = last(&told);
    assert!(end.starts_with("v0.18.0 failed at ") && end.contains("ErrImagePull"), "{end}");
    assert!(end.ends_with(" and v0.17.0 is back; virtctl update retry tries again"), "{end}");

    cluster.heal();
    cluster.retry_update();
    operator.reconcile(&mut cluster, usize::MAX).unwrap();
    let plan = operator.reconcile(&mut cluster, usize::MAX).unwrap().plan;
    let again = explain(&cluster.observe(), &plan, &Policy::default(), cluster.now());
    assert_eq!(again.state, State::InProgress);
    assert!(again.line.starts_with("update v0.17.0 -> v0.18.0"), "{}", again.line);
}

#[test]
fn a_pause_says_where_and_what_can_be_done() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_on_failure(OnFailure::Pause);
    cluster.inject("virt-controller", Release::V0_18_0, Fault::ImageMissing);
    cluster.set_image_tag(Some("v0.18.0"));
    let told = follow(&mut operator, &mut cluster);
    assert_eq!(states(&told), [State::InProgress, State::InTrouble, State::Paused], "{}", lines(&told));
    let end = last(&told);
    assert!(end.starts_with("paused at virt-controller: v0.18.0 failed at "), "{end}");
    assert!(end.ends_with("nothing happens until spec.imageTag changes or virtctl update retry"), "{end}");
}

#[test]
fn a_node_that_is_away_is_said_whatever_else_goes_on() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let away = cluster.nodes().last().unwrap().clone();
    cluster.lose_node(&away);
    cluster.advance(jiff::SignedDuration::from_mins(2));
    operator.run(&mut cluster, 5).unwrap();
    cluster.set_image_tag(Some("v0.18.0"));
    let told = follow(&mut operator, &mut cluster);
    let end = last(&told);
    assert!(end.starts_with("settled at v0.18.0: NotReady: ") && end.contains(&away), "{end}");
    assert!(end.ends_with("nobody waits for them"), "{end}");
}
