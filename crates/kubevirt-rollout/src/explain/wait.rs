//! One thing that is waited for: since when, on which nodes, until when at the latest, and what comes then.

use jiff::Timestamp;
use kubevirt_types::gate::LOST_AFTER;
use kubevirt_types::kubevirt::OnFailure;
use serde::Serialize;
use serde_json::Value;

use super::Seen;
use super::words::{about, clock, sorted};
use crate::context::{live_template_hash, template_hash};
use crate::observed::{Pod, StrategyJobState};
use crate::order::{Component, stages};
use crate::plan::{Plan, Stage};
use crate::stage::guard::GUARD;
use crate::trouble::taken_over;
use crate::waiting::{Cause, WaitingOn};

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// One word, as in conditions and events.
    pub reason: &'static str,
    /// A sentence that completes "waiting for".
    pub message: String,
    /// What is wrong; none while it is only a matter of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// On which nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Since when, where that can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When time itself decides it: it is over then, or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What happens next.
    pub next: String,
}

/// What a kind of waiting knows beside its words.
#[derive(Default)]
struct Facts {
    nodes: Vec<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    next: String,
}

/// Everything that there is to say about one thing that is waited for.
pub fn wait(seen: &Seen<'_>, waiting: &WaitingOn) -> Wait {
    let facts = facts(seen, waiting);
    Wait {
        reason: waiting.reason(),
        message: waiting.to_string(),
        cause: waiting.cause().map(str::to_owned),
        nodes: facts.nodes,
        since: facts.since.or_else(|| told_since(seen, waiting)),
        until: facts.until,
        next: facts.next,
    }
}

fn facts(seen: &Seen<'_>, waiting: &WaitingOn) -> Facts {
    let now = seen.view.now;
    let soon = |next: String| Facts { next, ..Facts::default() };
    match waiting {
        WaitingOn::StrategyJob { .. } => strategy_job(seen),
        WaitingOn::GuardNotActive => Facts {
            since: created(seen, |key| key.name == GUARD),
            ..soon(format!("the API server enforces it within seconds; then {}", following(seen.plan)))
        },
        WaitingOn::CrdNotEstablished { name } => Facts {
            since: created(seen, |key| key.kind == "CustomResourceDefinition" && key.name == *name),
            ..soon(format!("the API server serves it within seconds; then {}", following(seen.plan)))
        },
        WaitingOn::CaNotSpread { until } => Facts {
            since: until.saturating_sub(seen.view.policy.ca_spread).ok(),
            until: Some(*until),
            ..soon("then certificates of the new CA are issued; nothing else waits for that".to_owned())
        },
        WaitingOn::HandlersNotReady { canary, cause, .. } => match cause {
            Some(cause) => trouble(seen, cause),
            None => handlers(seen, canary.as_deref()),
        },
        WaitingOn::ControllersNotReady { cause, .. } => match cause {
            Some(cause) => trouble(seen, cause),
            None => replicas(seen, Component::Controller),
        },
        WaitingOn::ApiNotReady { cause, .. } => match cause {
            Some(cause) => trouble(seen, cause),
            None => replicas(seen, Component::Api),
        },
        WaitingOn::HandlersSettling { node, until } => Facts {
            nodes: vec![node.clone()],
            until: Some(*until),
            ..soon(format!("at {} virt-handler begins to be replaced, one node first", clock(*until, now)))
        },
        WaitingOn::NodesNotReady { nodes, .. } => away(seen, nodes),
        WaitingOn::UpdateFailed { failed, .. } => Facts {
            nodes: failed.node.iter().cloned().collect(),
            since: Some(failed.at),
            ..soon(super::AFTER_FAILURE.to_owned())
        },
        WaitingOn::Reports { missing } => Facts {
            nodes: reporting_nodes(seen, missing),
            ..soon(format!("each of them reports when it has started; then {}", following(seen.plan)))
        },
        WaitingOn::OldPods { pods } => old_pods(seen, pods),
        WaitingOn::Leftovers { target, .. } => soon(format!(
            "nothing more until somebody deletes them, or spec.imageTag names a release that has them: {target} doesn't"
        )),
        WaitingOn::Deletion { what, .. } => Facts {
            since: seen
                .view
                .observed
                .objects
                .iter()
                .find(|(key, _)| key.to_string() == *what)
                .and_then(|(_, live)| time(live, "deletionTimestamp")),
            ..soon(format!("then {}", following(seen.plan)))
        },
        WaitingOn::Refused { .. } => soon("nothing happens until the spec changes".to_owned()),
    }
}

/// The stage after the plan's, in words.
fn following(plan: &Plan) -> &'static str {
    let order = stages(plan.direction);
    let next = order.iter().position(|stage| *stage == plan.stage).and_then(|at| order.get(at + 1));
    about(next.copied().unwrap_or(Stage::Settled))
}

/// A new pod that isn't well: it gets well, or the update fails.
fn trouble(seen: &Seen<'_>, cause: &Cause) -> Facts {
    let now = seen.view.now;
    let next = match (cause.fails_at <= now, seen.comes_back()) {
        (true, Ok(_)) if seen.plan.failed.is_none() => {
            format!("{} % of the nodes may fail: the others go on", seen.view.policy.tolerated_percent)
        }
        (_, Ok(previous)) => {
            let then = match seen.on_failure() {
                OnFailure::Rollback => format!("is given up and {previous} comes back"),
                OnFailure::Pause => "is paused".to_owned(),
            };
            format!("at {} the {} {then}", clock(cause.fails_at, now), seen.change())
        }
        (_, Err(why)) => format!("it is waited for without end: {why}"),
    };
    let until = seen.comes_back().is_ok().then_some(cause.fails_at);
    Facts { nodes: cause.node.iter().cloned().collect(), since: Some(cause.since), until, next }
}

/// virt-handler takes its time: the canary first, then all.
fn handlers(seen: &Seen<'_>, canary: Option<&str>) -> Facts {
    let pods = Pods::of(seen, Component::Handler);
    let nodes = sorted(pods.old.iter().chain(&pods.starting).filter_map(|pod| pod.node.as_deref()));
    let since = pods.starting.iter().map(|pod| pod.created).min();
    let Some(node) = canary else {
        let next = format!("then {}", following(seen.plan));
        return Facts { nodes, since, until: None, next };
    };
    let here = |pod: &&&Pod| pod.node.as_deref() == Some(node);
    let (soak, now) = (seen.view.soak(), seen.view.now);
    let ready = pods.ready.iter().find(here);
    let ready_since = ready.and_then(|pod| pod.ready_since);
    let beside = pods.old.iter().any(|pod| here(&pod));
    let after = |at: Option<Timestamp>| at.and_then(|at| at.saturating_add(soak).ok());
    let (since, until) = match ready {
        None => (since, None),
        Some(_) if beside => (ready_since, after(ready_since)),
        Some(pod) => {
            let over = taken_over(pod, seen.view);
            (over, after(over))
        }
    };
    let time = until.map(|until| clock(until, now)).unwrap_or_default();
    let next = match ready {
        None => format!("when it is ready it stands by for {} s beside the old one", soak.as_secs()),
        Some(_) if beside => format!("it stands by; at {time} it takes the node over from the old one"),
        Some(_) => {
            format!("it is in charge of its node; if nothing happens the other nodes follow at {time}")
        }
    };
    Facts { nodes: vec![node.to_owned()], since, until, next }
}

/// A Deployment takes its time.
fn replicas(seen: &Seen<'_>, component: Component) -> Facts {
    let pods = Pods::of(seen, component);
    let waited = if pods.starting.is_empty() { &pods.old } else { &pods.starting };
    let newest = pods.ready.iter().filter_map(|pod| pod.ready_since).max();
    let soaked = newest.and_then(|since| since.saturating_add(seen.view.soak()).ok());
    let until =
        soaked.filter(|until| pods.starting.is_empty() && !pods.old.is_empty() && *until > seen.view.now);
    Facts {
        nodes: sorted(waited.iter().filter_map(|pod| pod.node.as_deref())),
        since: pods.starting.iter().map(|pod| pod.created).min().or(newest.filter(|_| until.is_some())),
        until,
        next: match until {
            Some(until) => format!("at {} the next old one goes", clock(until, seen.view.now)),
            None => format!("then {}", following(seen.plan)),
        },
    }
}

fn strategy_job(seen: &Seen<'_>) -> Facts {
    let (observed, now) = (seen.view.observed, seen.view.now);
    let id = seen.plan.target.as_ref().map(|target| target.id()).unwrap_or_default();
    let job = observed.strategy_jobs.iter().find(|job| job.deployment_id == id);
    let retry = |at: Timestamp| at.saturating_add(seen.view.policy.strategy_retry).unwrap_or(at);
    let (ended, next) = match job.map(|job| &job.state) {
        None => (None, "a Job that runs that image fetches them".to_owned()),
        Some(StrategyJobState::Running) => (None, "the Job that fetches them runs".to_owned()),
        Some(StrategyJobState::Succeeded { at }) => {
            (Some(*at), format!("if they don't appear the Job runs again at {}", clock(retry(*at), now)))
        }
        Some(StrategyJobState::Failed { at, .. }) => {
            (Some(*at), format!("at {} the Job runs again", clock(retry(*at), now)))
        }
        Some(StrategyJobState::Stuck(_)) => {
            let next = "the kubelet tries again and again; correct spec.imageTag or spec.imageRegistry if there is \
                        no such image";
            (None, next.to_owned())
        }
    };
    Facts { nodes: vec![], since: ended, until: ended.map(retry), next }
}

/// Nodes that don't answer.
fn away(seen: &Seen<'_>, nodes: &[String]) -> Facts {
    let now = seen.view.now;
    let sinces: Vec<Timestamp> =
        nodes.iter().filter_map(|name| seen.view.node(name)?.not_ready_since).collect();
    let lost = sinces.iter().max().and_then(|since| since.saturating_add(LOST_AFTER).ok());
    let until = lost.filter(|until| *until > now);
    Facts {
        nodes: nodes.to_vec(),
        since: sinces.into_iter().min(),
        until,
        next: match until {
            Some(until) => format!("at {} nobody waits for them any more", clock(until, now)),
            None => "nobody waits for them".to_owned(),
        },
    }
}

fn old_pods(seen: &Seen<'_>, names: &[String]) -> Facts {
    let pods: Vec<&Pod> = seen.view.observed.pods.iter().filter(|pod| names.contains(&pod.name)).collect();
    let deleted: Option<Vec<Timestamp>> = pods.iter().map(|pod| pod.deleting_since).collect();
    let deleted = deleted.unwrap_or_default();
    let until = deleted.iter().max().and_then(|at| at.saturating_add(seen.view.policy.handover).ok());
    Facts {
        nodes: sorted(pods.iter().filter_map(|pod| pod.node.as_deref())),
        since: deleted.iter().min().copied(),
        until,
        next: format!("then {}", about(seen.plan.stage)),
    }
}

/// The nodes of those whose report is missing.
fn reporting_nodes(seen: &Seen<'_>, missing: &[String]) -> Vec<String> {
    let told =
        missing.iter().filter_map(|text| text.strip_prefix("virt-handler on node ")?.split(' ').next());
    let name = |text: &String| text.split(' ').next().unwrap_or_default().to_owned();
    let names: Vec<String> = missing.iter().map(name).collect();
    let pods = seen.view.observed.pods.iter().filter(|pod| names.contains(&pod.name));
    sorted(told.chain(pods.filter_map(|pod| pod.node.as_deref())))
}

/// A component's pods that aren't being deleted, by how far they are.
struct Pods<'a> {
    ready: Vec<&'a Pod>,
    starting: Vec<&'a Pod>,
    old: Vec<&'a Pod>,
}

impl<'a> Pods<'a> {
    fn of(seen: &Seen<'a>, component: Component) -> Self {
        let key = component.key(seen.view.namespace());
        let target = seen.plan.target.as_ref().map(|target| target.id()).unwrap_or_default();
        let stored = seen.view.observed.strategies.get(&target).and_then(|stored| stored.set.get(&key));
        let live = seen.view.live(&key).and_then(live_template_hash).map(str::to_owned);
        let hash = stored.and_then(template_hash).or(live);
        let mut pods = Self { ready: vec![], starting: vec![], old: vec![] };
        let component = component.name();
        let all = seen.view.observed.pods.iter().filter(|pod| pod.component == component);
        for pod in all.filter(|pod| pod.deleting_since.is_none()) {
            match (pod.template_hash == hash, pod.serves()) {
                (true, true) => pods.ready.push(pod),
                (true, false) => pods.starting.push(pod),
                (false, _) => pods.old.push(pod),
            }
        }
        pods
    }
}

/// When the oldest of these objects was created.
fn created(seen: &Seen<'_>, is_one: impl Fn(&kubevirt_types::ObjectKey) -> bool) -> Option<Timestamp> {
    let found = seen.view.observed.objects.iter().filter(|(key, _)| is_one(key));
    found.filter_map(|(_, live)| time(live, "creationTimestamp")).min()
}

fn time(live: &Value, field: &str) -> Option<Timestamp> {
    live["metadata"][field].as_str()?.parse().ok()
}

/// Since when the status has said so.
fn told_since(seen: &Seen<'_>, waiting: &WaitingOn) -> Option<Timestamp> {
    let text = waiting.to_string();
    let conditions = seen.view.status()?.conditions.iter();
    let saying = conditions.filter(|condition| {
        condition.message.as_deref().is_some_and(|message| !text.is_empty() && message.contains(&text))
    });
    saying.filter_map(|condition| condition.last_probe_time).min()
}
