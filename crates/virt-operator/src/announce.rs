//! Events on the KubeVirt object: each new stage, and each new reason for waiting.
//!
//! Events are for people who watch; nobody decides by them, so one that can't be written is only logged.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use kubevirt_rollout::{Direction, Plan, Stage};
use kubevirt_types::KubeVirt;

use crate::FIELD_MANAGER;

/// The API server refuses longer notes.
const NOTE_LIMIT: usize = 1024;

/// What was announced last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    uid: String,
    stage: Option<Stage>,
    waiting: BTreeSet<String>,
}

/// One thing to announce.
#[derive(Debug, Clone, PartialEq, Eq)]
struct News {
    warning: bool,
    reason: String,
    note: String,
}

/// Announces what is new.
pub struct Announcer {
    client: Client,
    pod: String,
    told: Told,
}

impl Announcer {
    /// An announcer of the operator's pod of this name.
    pub fn new(client: Client, pod: &str) -> Self {
        Self { client, pod: pod.to_owned(), told: Told::default() }
    }

    /// Announces what a plan says that the last one didn't.
    pub async fn announce(&mut self, kubevirt: &KubeVirt, plan: &Plan) {
        let now = told(kubevirt.uid(), plan);
        let news = news(&self.told, &now, plan);
        self.told = now;
        for news in news {
            let event = self.event(kubevirt, &news);
            let api: Api<Event> = Api::namespaced(self.client.clone(), kubevirt.namespace());
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::warn!(reason = news.reason, %error, "an event can't be written");
            }
        }
    }

    fn event(&self, kubevirt: &KubeVirt, news: &News) -> Event {
        let now = jiff::Timestamp::now();
        let regarding: ObjectReference = kubevirt.object_ref(&());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", kubevirt.name(), now.as_nanosecond())),
                namespace: Some(kubevirt.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(now)),
            note: Some(news.note.clone()),
            reason: Some(news.reason.clone()),
            regarding: Some(regarding),
            reporting_controller: Some(FIELD_MANAGER.into()),
            reporting_instance: Some(self.pod.clone()),
            type_: Some(if news.warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        }
    }
}

fn told(uid: &str, plan: &Plan) -> Told {
    let waiting = keys(plan).collect();
    Told { uid: uid.to_owned(), stage: Some(plan.stage), waiting }
}

fn news(before: &Told, now: &Told, plan: &Plan) -> Vec<News> {
    let same_object = before.uid == now.uid;
    let mut news = Vec::new();
    if !same_object || before.stage != now.stage {
        news.push(News { warning: false, reason: plan.stage.to_string(), note: stage(plan) });
    }
    for (waiting, key) in plan.waiting_on.iter().zip(keys(plan)) {
        if !same_object || !before.waiting.contains(&key) {
            let mut note = format!("Waiting for {waiting}");
            if note.len() > NOTE_LIMIT {
                let end = (0..=NOTE_LIMIT).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
                note.truncate(end);
            }
            news.push(News { warning: waiting.cause().is_some(), reason: waiting.reason().into(), note });
        }
    }
    news
}

/// Where a plan is, in words.
fn stage(plan: &Plan) -> String {
    let release = plan.target.as_ref().map(|target| target.release.to_string()).unwrap_or_default();
    match plan.direction {
        Direction::Nothing => format!("{}: nothing can be done yet", plan.stage),
        Direction::Install => format!("{}: installing {release}", plan.stage),
        Direction::Update => format!("{}: updating to {release}", plan.stage),
        Direction::Rollback => format!("{}: rolling back to {release}", plan.stage),
        Direction::SameVersion => format!("{}: changing settings of {release}", plan.stage),
        Direction::Steady => format!("{}: keeping {release}", plan.stage),
        Direction::Uninstall => format!("{}: uninstalling", plan.stage),
    }
}

/// What tells one reason for waiting from another, in the plan's order. How many are ready and how long
/// is left changes all the time: only why counts.
fn keys(plan: &Plan) -> impl Iterator<Item = String> {
    plan.waiting_on
        .iter()
        .map(|waiting| format!("{} {}", waiting.reason(), waiting.cause().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_manifests::InstallConfig;
    use kubevirt_rollout::{Cause, WaitingOn};
    use kubevirt_types::Release;

    fn plan(stage: Stage, ready: usize, cause: Option<&str>) -> Plan {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cause = cause.map(|message| Cause {
            pod: "virt-handler-x".into(),
            node: None,
            message: message.into(),
            since: now,
            fails_at: now,
        });
        Plan {
            direction: Direction::Update,
            stage,
            steps: vec![],
            waiting_on: vec![WaitingOn::HandlersNotReady { ready, of: 3, canary: None, cause }],
            target: Some(InstallConfig::of(Release::V0_18_0)),
            failed: None,
        }
    }

    fn said(before: &Plan, now: &Plan) -> Vec<(bool, String)> {
        let news = news(&told("u", before), &told("u", now), now);
        news.into_iter().map(|news| (news.warning, news.note)).collect()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let first = plan(Stage::Handlers, 1, None);
        assert_eq!(said(&first, &plan(Stage::Handlers, 2, None)), [], "progress is in the condition");
        assert_eq!(
            said(&first, &plan(Stage::Handlers, 1, Some("no image"))),
            [(true, "Waiting for virt-handler: 1 of 3 ready: no image".into())]
        );
        assert_eq!(
            said(&first, &plan(Stage::Controllers, 3, None)),
            [(false, "Controllers: updating to v0.18.0".into())]
        );
        let all = news(&Told::default(), &told("u", &first), &first);
        assert_eq!(all.len(), 2, "a new object is told everything");
    }
}
