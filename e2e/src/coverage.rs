//! Which nodes and replicas were ever without a good pod of the control plane, from a watch of the pods.
//!
//! The watch keeps every change; what counts as good is said afterwards, when it is known which pods were bad.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use kubevirt_types::labels;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::product::{NAMESPACE, is_ready};

/// What matters of a pod at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub component: String,
    pub node: String,
    /// The hash of the template that it was made from.
    pub template: String,
    pub created: Timestamp,
    /// Ready, and not on its way out.
    pub serves: bool,
}

impl Seen {
    fn of(pod: &Pod) -> Self {
        let text = |from: Option<&String>| from.cloned().unwrap_or_default();
        Self {
            component: text(pod.labels().get(labels::APP)),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            template: text(pod.annotations().get(labels::TEMPLATE_HASH)),
            created: pod.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            serves: is_ready(pod),
        }
    }
}

/// One change of the cluster's pods.
#[derive(Debug, Clone)]
pub enum Change {
    /// A pod, by its uid, is like this now.
    Is(String, Seen),
    /// A pod is gone.
    Gone(String),
    /// The watch begins anew; what it doesn't name before it is complete is gone.
    Anew,
    /// It is complete.
    Complete,
}

/// All pods at each moment at which all were known.
fn moments(changes: &[Change], mut look: impl FnMut(&BTreeMap<&str, &Seen>)) {
    let mut pods = BTreeMap::new();
    let mut complete = false;
    for change in changes {
        match change {
            Change::Is(uid, seen) => {
                pods.insert(uid.as_str(), seen);
            }
            Change::Gone(uid) => {
                pods.remove(uid.as_str());
            }
            Change::Anew => {
                pods.clear();
                complete = false;
            }
            Change::Complete => complete = true,
        }
        if complete {
            look(&pods);
        }
    }
}

/// Those of the nodes that were ever without a good virt-handler.
pub fn uncovered(changes: &[Change], nodes: &[String], bad: impl Fn(&Seen) -> bool) -> BTreeSet<String> {
    let mut uncovered = BTreeSet::new();
    moments(changes, |pods| {
        let covered: BTreeSet<&str> = pods
            .values()
            .filter(|pod| pod.component == "virt-handler" && pod.serves && !bad(pod))
            .map(|pod| pod.node.as_str())
            .collect();
        uncovered.extend(nodes.iter().filter(|node| !covered.contains(node.as_str())).cloned());
    });
    uncovered
}

/// The least number of good pods that a component ever had.
pub fn least(changes: &[Change], component: &str, bad: impl Fn(&Seen) -> bool) -> usize {
    let mut least = usize::MAX;
    moments(changes, |pods| {
        let good = pods.values().filter(|pod| pod.component == component && pod.serves && !bad(pod)).count();
        least = least.min(good);
    });
    least
}

/// The first bad pod that was made.
pub fn first_bad(changes: &[Change], bad: impl Fn(&Seen) -> bool) -> Option<Timestamp> {
    let all = changes.iter().filter_map(|change| match change {
        Change::Is(_, seen) => Some(seen),
        Change::Gone(_) | Change::Anew | Change::Complete => None,
    });
    all.filter(|seen| bad(seen)).map(|seen| seen.created).min()
}

/// Nodes on which a bad pod ever was.
pub fn tried_on(changes: &[Change], bad: impl Fn(&Seen) -> bool) -> BTreeSet<String> {
    let all = changes.iter().filter_map(|change| match change {
        Change::Is(_, seen) => Some(seen),
        Change::Gone(_) | Change::Anew | Change::Complete => None,
    });
    all.filter(|seen| bad(seen) && !seen.node.is_empty()).map(|seen| seen.node.clone()).collect()
}

/// Watches the control plane's pods until it is stopped.
pub struct Coverage {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl Coverage {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let changes = Arc::default();
        let task = tokio::spawn(follow(client.clone(), Arc::clone(&changes), stopped));
        Self { stop, task, changes }
    }

    /// What has changed until now.
    pub fn so_far(&self) -> Vec<Change> {
        self.changes.lock().expect("the watch doesn't panic while it writes").clone()
    }

    /// Ends it and returns every change.
    pub async fn finish(self) -> anyhow::Result<Vec<Change>> {
        self.stop.send_replace(true);
        self.task.await?;
        let mut changes = self.changes.lock().expect("the watch doesn't panic while it writes");
        Ok(std::mem::take(&mut changes))
    }
}

async fn follow(client: Client, changes: Arc<Mutex<Vec<Change>>>, mut stopped: watch::Receiver<bool>) {
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let events = watcher(pods, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let uid = |pod: &Pod| pod.uid().unwrap_or_default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stopped.changed() => return,
        };
        let change = match event {
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => Change::Is(uid(&pod), Seen::of(&pod)),
            Some(Ok(Event::Delete(pod))) => Change::Gone(uid(&pod)),
            Some(Ok(Event::Init)) => Change::Anew,
            Some(Ok(Event::InitDone)) => Change::Complete,
            Some(Err(_)) => continue,
            None => return,
        };
        changes.lock().expect("nobody panics while reading").push(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(uid: &str, component: &str, node: &str, template: &str, serves: bool) -> Change {
        let seen = Seen {
            component: component.into(),
            node: node.into(),
            template: template.into(),
            created: Timestamp::UNIX_EPOCH,
            serves,
        };
        Change::Is(uid.into(), seen)
    }

    #[test]
    fn a_node_is_covered_while_a_good_handler_serves_it() {
        let nodes = ["a".to_owned(), "b".to_owned()];
        let bad = |seen: &Seen| seen.template == "bad";
        let handler = |uid, node, template, serves| is(uid, "virt-handler", node, template, serves);
        let mut changes = vec![
            Change::Anew,
            handler("1", "a", "good", true),
            handler("2", "b", "good", true),
            Change::Complete,
            handler("3", "a", "bad", true),
        ];
        assert!(uncovered(&changes, &nodes, bad).is_empty(), "the bad one only stands by");
        assert_eq!(tried_on(&changes, bad), BTreeSet::from(["a".to_owned()]));
        changes.push(handler("1", "a", "good", false));
        assert_eq!(uncovered(&changes, &nodes, bad), BTreeSet::from(["a".to_owned()]));
        changes.extend([Change::Anew, Change::Complete]);
        assert_eq!(uncovered(&changes, &nodes, bad).len(), 2, "what the watch doesn't name any more is gone");
    }

    #[test]
    fn the_least_is_counted_only_when_all_pods_are_known() {
        let api = |uid, serves| is(uid, "virt-api", "a", "good", serves);
        let mut changes = vec![Change::Anew, api("1", true), api("2", true), Change::Complete];
        assert_eq!(least(&changes, "virt-api", |_| false), 2);
        changes.extend([api("3", true), Change::Gone("1".into())]);
        assert_eq!(least(&changes, "virt-api", |_| false), 2);
        changes.push(api("3", false));
        assert_eq!(least(&changes, "virt-api", |_| false), 1);
    }
}
