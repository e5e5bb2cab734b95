//! Which nodes and replicas were ever without a good pod of the control plane, from a watch of the pods.
//!
//! The watch keeps every change; what counts as good is said afterwards, when it is known which pods were bad.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use kubevirt_types::labels;

use crate::following::Following;
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

/// All pods at each moment at which all were known, with the index of the change that brought it about.
fn moments<'a>(changes: &'a [Change], mut look: impl FnMut(usize, &BTreeMap<&'a str, &'a Seen>)) {
    let mut pods = BTreeMap::new();
    let mut complete = false;
    for (index, change) in changes.iter().enumerate() {
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
            look(index, &pods);
        }
    }
}

/// The nodes that a good virt-handler serves.
fn covered<'a>(pods: &BTreeMap<&'a str, &'a Seen>, bad: impl Fn(&Seen) -> bool) -> BTreeSet<&'a str> {
    let handlers = pods.values().filter(|pod| pod.component == "virt-handler" && pod.serves && !bad(pod));
    handlers.map(|pod| pod.node.as_str()).collect()
}

/// Those of the nodes that were ever without a good virt-handler.
pub fn uncovered(changes: &[Change], nodes: &[String], bad: impl Fn(&Seen) -> bool) -> BTreeSet<String> {
    let mut uncovered = BTreeSet::new();
    moments(changes, |_, pods| {
        let covered = covered(pods, &bad);
        uncovered.extend(nodes.iter().filter(|node| !covered.contains(node.as_str())).cloned());
    });
    uncovered
}

fn longest_gap(changes: &[(Instant, Change)], nodes: &[String], now: Instant) -> Duration {
    let (stamps, changes): (Vec<Instant>, Vec<Change>) = changes.iter().cloned().unzip();
    let mut since: BTreeMap<&String, Instant> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    moments(&changes, |index, pods| {
        let covered = covered(pods, |_| false);
        for node in nodes {
            if !covered.contains(node.as_str()) {
                since.entry(node).or_insert(stamps[index]);
            } else if let Some(since) = since.remove(node) {
                longest = longest.max(stamps[index].duration_since(since));
            }
        }
    });
    since.values().map(|since| now.duration_since(*since)).fold(longest, Duration::max)
}

/// The least number of good pods that a component ever had.
pub fn least(changes: &[Change], component: &str, bad: impl Fn(&Seen) -> bool) -> usize {
    let mut least = usize::MAX;
    moments(changes, |_, pods| {
        let good = pods.values().filter(|pod| pod.component == component && pod.serves && !bad(pod)).count();
        least = least.min(good);
    });
    least
}

/// On how few nodes a component ever served.
pub fn fewest_nodes(changes: &[Change], component: &str) -> usize {
    let mut fewest = usize::MAX;
    moments(changes, |_, pods| {
        let serving = pods.values().filter(|pod| pod.component == component && pod.serves);
        fewest = fewest.min(serving.map(|pod| pod.node.as_str()).collect::<BTreeSet<_>>().len());
    });
    fewest
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

/// Watches the control plane's pods until it is finished.
pub struct Coverage(Following<Stamped>);

/// Changes, each with the moment in which it was seen.
type Stamped = Vec<(Instant, Change)>;

impl Coverage {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        Self(Following::start(pods, move |changes: &mut Stamped, event| {
            let change = match event {
                Event::Apply(pod) | Event::InitApply(pod) => Change::Is(uid(&pod), Seen::of(&pod)),
                Event::Delete(pod) => Change::Gone(uid(&pod)),
                Event::Init => Change::Anew,
                Event::InitDone => Change::Complete,
            };
            changes.push((Instant::now(), change));
        }))
    }

    /// What has changed until now.
    pub fn so_far(&self) -> Vec<Change> {
        changes(self.0.so_far())
    }

    /// Whether all pods are known.
    pub fn is_complete(&self) -> bool {
        self.so_far().iter().any(|change| matches!(change, Change::Complete))
    }

    /// The longest time for which one of the nodes was without a virt-handler that serves, up to now.
    pub fn longest_gap(&self, nodes: &[String]) -> Duration {
        longest_gap(&self.0.so_far(), nodes, Instant::now())
    }

    /// Ends it and returns every change.
    pub async fn finish(self) -> anyhow::Result<Vec<Change>> {
        Ok(changes(self.0.finish().await?))
    }
}

fn changes(stamped: Stamped) -> Vec<Change> {
    stamped.into_iter().map(|(_, change)| change).collect()
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
    fn a_gap_goes_on_until_another_serves() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let handler = |uid, serves| is(uid, "virt-handler", "a", "good", serves);
        let mut changes = vec![
            (at(0), handler("1", true)),
            (at(0), Change::Complete),
            (at(1), handler("2", true)),
            (at(2), handler("1", false)),
        ];
        let gap = |changes: &[_], now| longest_gap(changes, &["a".to_owned()], at(now));
        assert_eq!(gap(&changes, 5), Duration::ZERO, "the second serves");
        changes.extend([(at(6), handler("2", false)), (at(8), handler("3", true))]);
        assert_eq!(gap(&changes, 9), Duration::from_secs(2));
        changes.push((at(10), Change::Gone("3".into())));
        assert_eq!(gap(&changes, 15), Duration::from_secs(5), "it goes on");
    }

    #[test]
    fn the_least_is_counted_only_when_all_pods_are_known() {
        let api = |uid, serves| is(uid, "virt-api", "a", "good", serves);
        let mut changes = vec![Change::Anew, api("1", true), api("2", true), Change::Complete];
        assert_eq!(least(&changes, "virt-api", |_| false), 2);
        changes.extend([api("3", true), Change::Gone("1".into())]);
        assert_eq!(least(&changes, "virt-api", |_| false), 2);
        assert_eq!(fewest_nodes(&changes, "virt-api"), 1, "all are on the same");
        changes.push(api("3", false));
        assert_eq!(least(&changes, "virt-api", |_| false), 1);
    }
}
