//! What every stage looks at: the view, the target, and what follows from both.
//!
//! Owns the derived facts: which releases are in play, which way the change goes, whether everything has
//! rolled. Never produces a step that a stage didn't ask for.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{Manifest, ManifestSet};
use kubevirt_types::kubevirt::{FailedUpdate, KubeVirtStatus};
use kubevirt_types::{KubeVirt, ObjectKey, Release, gate, labels};
use serde_json::{Value, json};

use crate::drift::is_subset;
use crate::failure;
use crate::observed::{Node, Observed, Pod};
use crate::order::{Class, Component, class};
use crate::plan::Direction;
use crate::policy::Policy;
use crate::progress::Progress;
use crate::step::{Precondition, Step};
use crate::waiting::WaitingOn;

/// The view, the policy and the time, before a target is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub observed: &'a Observed,
    pub kubevirt: &'a KubeVirt,
    pub policy: &'a Policy,
    pub now: Timestamp,
    pub nodes: &'a Nodes<'a>,
}

/// What is known of the nodes, found by name, so that a plan for thousands of them stays quick.
#[derive(Debug, Clone)]
pub(crate) struct Nodes<'a> {
    by_name: BTreeMap<&'a str, &'a Node>,
    /// Those that are NotReady, since when: few, so that asking for each pod's node costs little.
    not_ready: BTreeMap<&'a str, Timestamp>,
    /// Nodes that couldn't run VMs when virt-handler's DaemonSet was changed last.
    unable_before: BTreeSet<&'a str>,
    /// When a virt-handler was last deleted, of those that are still there to be seen.
    handler_deleted: BTreeMap<&'a str, Timestamp>,
}

impl<'a> Nodes<'a> {
    /// Puts them together.
    pub fn of(observed: &'a Observed) -> Self {
        let daemon_set = observed.objects.get(&Component::Handler.key(&observed.operator.namespace));
        let unable =
            daemon_set.and_then(|live| live["metadata"]["annotations"][labels::UNABLE_NODES].as_str());
        let mut handler_deleted = BTreeMap::new();
        for pod in observed.pods.iter().filter(|pod| pod.component == Component::Handler.name()) {
            if let (Some(node), Some(at)) = (pod.node.as_deref(), pod.deleting_since) {
                let last = handler_deleted.entry(node).or_insert(at);
                *last = at.max(*last);
            }
        }
        Self {
            by_name: observed.nodes.iter().map(|node| (node.name(), node)).collect(),
            not_ready: observed
                .nodes
                .iter()
                .filter_map(|node| Some((node.name(), node.not_ready_since?)))
                .collect(),
            unable_before: unable.into_iter().flat_map(|list| list.split(',')).collect(),
            handler_deleted,
        }
    }
}

/// The view together with the target's manifests.
#[derive(Debug, Clone)]
pub(crate) struct Context<'a> {
    pub view: View<'a>,
    pub target: &'a ManifestSet,
    /// The manifest sets of every other release in play, the observed one first.
    pub old: Vec<&'a ManifestSet>,
    pub direction: Direction,
    /// The target has failed, and nothing may move.
    pub paused: Option<&'a FailedUpdate>,
    progress: BTreeMap<Component, Progress<'a>>,
    handover: Handover,
}

/// Whether everything has been handed over to the target's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handover {
    /// It has.
    Over,
    /// Only pods on lost nodes are of another release: nobody waits for them, but they may come back.
    LostNodes(WaitingOn),
    /// Pods of another template may act.
    OldPods(WaitingOn),
}

impl Handover {
    fn of(view: View<'_>, progress: &BTreeMap<Component, Progress<'_>>) -> Self {
        let others: Vec<&Pod> =
            progress.values().flat_map(|progress| progress.outdated_acting.iter().copied()).collect();
        let made = progress.values().all(|progress| progress.object_current || progress.object_absent);
        let waits: Vec<String> =
            others.iter().filter(|pod| !view.on_lost_node(pod)).map(|pod| pod.name.clone()).collect();
        if !made || !waits.is_empty() {
            return Self::OldPods(WaitingOn::OldPods { pods: waits });
        }
        let away: BTreeMap<&str, Timestamp> =
            others.iter().filter_map(|pod| view.not_ready_node(pod)).collect();
        WaitingOn::nodes(&away).map_or(Self::Over, Self::LostNodes)
    }
}

/// What one stage comes to. It is over when it has neither steps nor anything to wait for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcome {
    pub steps: Vec<Step>,
    pub waiting_on: Vec<WaitingOn>,
    /// What is still to come and holds no other stage up.
    pub notes: Vec<WaitingOn>,
}

impl Outcome {
    /// Nothing to do.
    pub fn over() -> Self {
        Self::default()
    }

    /// Whether the next stage may begin.
    pub fn is_over(&self) -> bool {
        self.steps.is_empty() && self.waiting_on.is_empty()
    }
}

impl From<WaitingOn> for Outcome {
    fn from(waiting_on: WaitingOn) -> Self {
        Self { waiting_on: vec![waiting_on], ..Self::default() }
    }
}

impl<'a> View<'a> {
    /// The install namespace.
    pub fn namespace(&self) -> &'a str {
        &self.observed.operator.namespace
    }

    /// The status that was written last.
    pub fn status(&self) -> Option<&'a KubeVirtStatus> {
        self.kubevirt.status.as_ref()
    }

    /// A live object.
    pub fn live(&self, key: &ObjectKey) -> Option<&'a Value> {
        self.observed.objects.get(key)
    }

    /// The CA bundle as webhooks and API services carry it; none before there is one.
    pub fn ca_bundle(&self) -> Option<String> {
        let bundle = &self.observed.certificates.bundle;
        (!bundle.is_empty())
            .then(|| STANDARD.encode(bundle.iter().map(|ca| ca.pem.as_str()).collect::<String>()))
    }

    /// Brings an object to this form, unless it has it.
    pub fn ensure(&self, manifest: &Manifest, outcome: &mut Outcome) {
        let precondition = match self.live(&manifest.key) {
            None => Precondition::Absent,
            Some(live) if is_deleting(live) => {
                outcome.waiting_on.push(WaitingOn::Deletion { what: manifest.key.to_string(), left: 1 });
                return;
            }
            Some(live) if is_subset(&manifest.body, live) => return,
            Some(live) => unchanged(live),
        };
        outcome.steps.push(Step::Apply { manifest: manifest.clone(), precondition });
    }

    /// Deletes an object, unless it is gone or going.
    pub fn delete(&self, key: &ObjectKey, outcome: &mut Outcome) {
        let Some(live) = self.live(key) else { return };
        if is_deleting(live) {
            outcome.waiting_on.push(WaitingOn::Deletion { what: key.to_string(), left: 1 });
            return;
        }
        outcome.steps.push(deletion(key, live));
    }

    /// The soak that the spec asks for.
    pub fn soak(&self) -> SignedDuration {
        self.policy.soak(&self.kubevirt.spec)
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&'a Node> {
        self.nodes.by_name.get(name).copied()
    }

    /// The node of a pod and since when it is NotReady; none when it is Ready.
    pub fn not_ready_node(&self, pod: &'a Pod) -> Option<(&'a str, Timestamp)> {
        let (node, since) = self.nodes.not_ready.get_key_value(pod.node.as_deref()?)?;
        Some((node, *since))
    }

    /// Whether a node that is NotReady since then is waited for no more.
    pub fn is_lost(&self, since: Timestamp) -> bool {
        gate::is_lost(since, self.now)
    }

    /// Whether a pod is on a node that is waited for no more.
    pub fn on_lost_node(&self, pod: &'a Pod) -> bool {
        self.not_ready_node(pod).is_some_and(|(_, since)| self.is_lost(since))
    }

    /// Nodes that couldn't run VMs when virt-handler's DaemonSet was changed last.
    pub fn unable_before(&self) -> &'a BTreeSet<&'a str> {
        &self.nodes.unable_before
    }

    /// Whether a node is NotReady.
    pub fn misses_nodes(&self) -> bool {
        !self.nodes.not_ready.is_empty()
    }

    /// What went wrong with a pod before this doesn't count: somebody asked for another try, or its node came back.
    pub fn fresh_start(&self, pod: &Pod) -> Option<Timestamp> {
        let back = pod.node.as_deref().and_then(|node| self.node(node)?.ready_since);
        failure::retried_at(self.kubevirt).max(back)
    }

    /// When a virt-handler of this node was last deleted, if it is still there to be seen.
    pub fn handler_deleted(&self, node: &str) -> Option<Timestamp> {
        self.nodes.handler_deleted.get(node).copied()
    }

    /// Pods of a component that may still act: not those whose deletion is longer ago than a handover takes, unless their
    /// node is NotReady, so that nobody has told them.
    pub fn acting(&self, component: Component) -> impl Iterator<Item = &'a Pod> {
        let view = *self;
        self.observed.pods.iter().filter(move |pod| {
            pod.component == component.name()
                && (pod
                    .deleting_since
                    .is_none_or(|since| view.now.duration_since(since) < view.policy.handover)
                    || view.not_ready_node(pod).is_some())
        })
    }
}

impl<'a> Context<'a> {
    /// Puts the facts together.
    pub fn new(view: View<'a>, target: &'a ManifestSet, paused: Option<&'a FailedUpdate>) -> Self {
        let progress: BTreeMap<Component, Progress<'a>> = Component::ALL
            .into_iter()
            .map(|component| (component, Progress::of(view, target, component)))
            .collect();
        let direction = direction(view, target, progress.values());
        let id = target.config.id();
        let observed_id = view.status().and_then(|status| status.observed_deployment_id.as_deref());
        let live: BTreeSet<Release> =
            live_releases(view, true).into_iter().map(|(_, release)| release).collect();
        let mut old: Vec<(&str, &ManifestSet)> = view
            .observed
            .strategies
            .iter()
            .map(|(id, stored)| (id.as_str(), stored.set.as_ref()))
            .filter(|(other, set)| {
                *other != id && (Some(*other) == observed_id || live.contains(&set.config.release))
            })
            .collect();
        old.sort_by_key(|(other, _)| Some(*other) != observed_id);
        let old = old.into_iter().map(|(_, set)| set).collect();
        let handover = Handover::of(view, &progress);
        Self { view, target, old, direction, paused, progress, handover }
    }

    /// A component's progress towards the target.
    pub fn progress(&self, component: Component) -> &Progress<'a> {
        &self.progress[&component]
    }

    /// Whether every pod that acts is the target's, and no workload makes others (I7, I8).
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    /// Whether every pod that acts is the target's, those on lost nodes included.
    pub fn handed_over(&self) -> bool {
        self.handover == Handover::Over
    }

    /// Whether the target is still to be proved: it isn't what ran before, and something ran before.
    pub fn is_trial(&self) -> bool {
        match self.direction {
            Direction::Update | Direction::Rollback | Direction::SameVersion => !self.reached_before(),
            Direction::Nothing | Direction::Install | Direction::Steady | Direction::Uninstall => false,
        }
    }

    /// Whether the target was reached before: what moves now is a node that has come back, or drift.
    pub fn reached_before(&self) -> bool {
        let observed = self.view.status().and_then(|status| status.observed_deployment_id.as_deref());
        observed == Some(&self.target.config.id())
    }

    /// The release that is being left, for messages.
    pub fn from(&self) -> Option<Release> {
        self.view
            .status()
            .and_then(|status| status.observed_kube_virt_version.as_deref()?.parse().ok())
            .filter(|release| *release != self.target.config.release)
            .or_else(|| self.old.iter().map(|set| set.config.release.clone()).max())
    }

    /// The target's manifests of one class.
    pub fn of_class(&self, wanted: Class) -> impl Iterator<Item = &'a Manifest> {
        self.target.manifests.iter().filter(move |manifest| class(&manifest.key) == wanted)
    }

    /// A manifest with the CA bundle in it, where it takes one. None before there is a bundle.
    pub fn with_ca(&self, manifest: &Manifest) -> Option<Manifest> {
        let ca = self.view.ca_bundle()?;
        let mut manifest = manifest.clone();
        inject_ca(&mut manifest.body, &ca);
        Some(manifest.rehashed())
    }
}

/// Writes the CA bundle into a webhook configuration or an API service; leaves other objects alone.
pub(crate) fn inject_ca(body: &mut Value, ca: &str) {
    match body.get("kind").and_then(Value::as_str) {
        Some("APIService") => body["spec"]["caBundle"] = json!(ca),
        Some("ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration") => {
            for webhook in body["webhooks"].as_array_mut().into_iter().flatten() {
                webhook["clientConfig"]["caBundle"] = json!(ca);
            }
        }
        _ => {}
    }
}

/// Whether somebody has asked for an object's deletion.
pub(crate) fn is_deleting(live: &Value) -> bool {
    live.pointer("/metadata/deletionTimestamp").is_some()
}

/// A text in an object's metadata.
fn metadata<'v>(live: &'v Value, field: &str) -> &'v str {
    live["metadata"][field].as_str().unwrap_or_default()
}

/// The precondition that a live object is as it was seen.
pub(crate) fn unchanged(live: &Value) -> Precondition {
    Precondition::Unchanged {
        uid: metadata(live, "uid").to_owned(),
        resource_version: metadata(live, "resourceVersion").to_owned(),
    }
}

/// The step that deletes a live object.
pub(crate) fn deletion(key: &ObjectKey, live: &Value) -> Step {
    Step::Delete {
        key: key.clone(),
        uid: metadata(live, "uid").to_owned(),
        resource_version: metadata(live, "resourceVersion").to_owned(),
    }
}

/// Whether virt-operator manages a live object.
pub(crate) fn is_managed(live: &Value) -> bool {
    live["metadata"]["labels"][labels::MANAGED_BY].as_str() == Some(labels::MANAGED_BY_OPERATOR)
}

/// Every release that a pod or a workload of the control plane is of, few as they are; those on lost nodes only when
/// asked for.
fn live_releases(view: View<'_>, lost_too: bool) -> Vec<(Component, Release)> {
    let mut releases = Vec::new();
    for component in Component::ALL {
        let mut seen: Vec<&Release> = Vec::new();
        for pod in view.acting(component).filter(|pod| lost_too || !view.on_lost_node(pod)) {
            seen.extend(pod.release.as_ref().filter(|release| !seen.contains(release)));
        }
        let object = view.live(&component.key(view.namespace())).and_then(|live| {
            live["metadata"]["annotations"][labels::INSTALL_VERSION].as_str()?.parse::<Release>().ok()
        });
        releases.extend(seen.into_iter().cloned().chain(object).map(|release| (component, release)));
    }
    releases
}

/// Which way a change goes. What lives counts, not only what was observed, because a target may change at any
/// moment. Where both newer and older releases live, virt-api decides: it is never newer than the slowest.
fn direction<'a>(
    view: View<'_>,
    target: &ManifestSet,
    mut progress: impl Iterator<Item = &'a Progress<'a>>,
) -> Direction {
    let wanted = &target.config.release;
    let status = view.status();
    let observed: Option<Release> =
        status.and_then(|status| status.observed_kube_virt_version.as_deref()?.parse().ok());
    let live = live_releases(view, false);
    let all = || live.iter().map(|(_, release)| release).chain(&observed);
    let (newer, older) = (all().any(|release| release > wanted), all().any(|release| release < wanted));
    let api_newer = live.iter().any(|(component, release)| *component == Component::Api && release > wanted);
    match (newer, older) {
        (true, false) => Direction::Rollback,
        (false, true) => Direction::Update,
        (true, true) if api_newer => Direction::Rollback,
        (true, true) => Direction::Update,
        (false, false) => {
            let observed_id = status.and_then(|status| status.observed_deployment_id.as_deref());
            match observed_id {
                None => Direction::Install,
                Some(observed) if observed == target.config.id() && !progress.any(Progress::rolls) => {
                    Direction::Steady
                }
                Some(_) => Direction::SameVersion,
            }
        }
    }
}

/// The hash of a workload manifest's pod template.
pub(crate) fn template_hash(manifest: &Manifest) -> Option<String> {
    Some(kubevirt_manifests::config::hash(&manifest.body.pointer("/spec/template")?.to_string()))
}

/// The template hash that a live workload's pods get.
pub(crate) fn live_template_hash(live: &Value) -> Option<&str> {
    live.pointer("/spec/template/metadata/annotations")?.get(labels::TEMPLATE_HASH)?.as_str()
}

/// A workload manifest whose pods can be told from those of any other template.
pub(crate) fn with_template_hash(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    if let Some(hash) = template_hash(&manifest)
        && let Some(metadata) =
            manifest.body.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut)
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations[labels::TEMPLATE_HASH] = json!(hash);
    }
    manifest.rehashed()
}
