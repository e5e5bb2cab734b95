//! Watches the control plane from outside while an update goes on: when each pod appeared, became ready and went.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use kubevirt_types::{Release, labels};

use crate::following::Following;
use crate::product::{NAMESPACE, is_ready};

/// One pod of the control plane, as its events told.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStory {
    pub component: String,
    pub release: String,
    pub name: String,
    pub node: String,
    /// metadata.creationTimestamp of the API server.
    pub created: Option<Timestamp>,
    /// When the kubelet reported it Ready first.
    pub ready: Option<Timestamp>,
    /// When its deletion was asked for.
    pub deleted: Option<Timestamp>,
}

/// Watches until it is finished.
pub struct Observer(Following<BTreeMap<String, PodStory>>);

impl Observer {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        Self(Following::start(pods, |stories: &mut BTreeMap<String, PodStory>, event| match event {
            Event::Apply(pod) | Event::InitApply(pod) => note(stories, &pod),
            Event::Delete(pod) => {
                note(stories, &pod);
                if let Some(story) = stories.get_mut(&pod.name_any()) {
                    story.deleted.get_or_insert_with(Timestamp::now);
                }
            }
            Event::Init | Event::InitDone => {}
        }))
    }

    /// Ends it and returns the story of every pod that was seen.
    pub async fn finish(self) -> anyhow::Result<Vec<PodStory>> {
        let mut all: Vec<PodStory> = self.0.finish().await?.into_values().collect();
        all.sort_by_key(|story| story.created);
        Ok(all)
    }
}

fn note(stories: &mut BTreeMap<String, PodStory>, pod: &Pod) {
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    let story = stories.entry(pod.name_any()).or_insert_with(|| PodStory {
        component: label(labels::APP),
        release: label(labels::REPORT_VERSION),
        name: pod.name_any(),
        node: String::new(),
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ready: None,
        deleted: None,
    });
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        story.node = node;
    }
    if is_ready(pod) && story.ready.is_none() {
        story.ready = Some(Timestamp::now());
    }
    if let Some(time) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let asked = time.0 - jiff::SignedDuration::from_secs(grace);
        story.deleted.get_or_insert(asked);
    }
}

/// The order of an update, from what the API server says of the pods: of each component the pods of the new
/// release, when the first was made and when the last became ready.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub component: String,
    pub first_created: Option<Timestamp>,
    pub last_ready: Option<Timestamp>,
}

/// Components in the order of an update.
pub const UPDATE_ORDER: [&str; 3] = ["virt-handler", "virt-controller", "virt-api"];

/// Reads the order out of the pods' stories.
pub fn order(stories: &[PodStory], release: &Release, since: Timestamp) -> Vec<Order> {
    let release = release.to_string();
    // creationTimestamp has whole seconds
    let since = since - jiff::SignedDuration::from_secs(1);
    UPDATE_ORDER
        .iter()
        .map(|component| {
            let new: Vec<&PodStory> = stories
                .iter()
                .filter(|s| s.component == *component && s.release == release)
                .filter(|s| s.created.is_some_and(|created| created >= since))
                .collect();
            Order {
                component: (*component).to_owned(),
                first_created: new.iter().filter_map(|story| story.created).min(),
                last_ready: new.iter().filter_map(|story| story.ready).max(),
            }
        })
        .collect()
}

/// Why an order isn't handlers, controllers, api; none when it is.
pub fn order_complaint(order: &[Order]) -> Option<String> {
    for part in order {
        if part.first_created.is_none() || part.last_ready.is_none() {
            return Some(format!("{} was not replaced", part.component));
        }
    }
    order.windows(2).find_map(|pair| {
        let [before, after] = pair else { return None };
        // last_ready is this machine's clock to the millisecond, creation has whole seconds
        let created = after.first_created? + jiff::SignedDuration::from_secs(1);
        (Some(created) < before.last_ready)
            .then(|| format!("{} was begun before the last {} was ready", after.component, before.component))
    })
}
