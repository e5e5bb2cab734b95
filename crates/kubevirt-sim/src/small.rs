//! A world small enough for a model checker: two nodes, two short releases, and a print of what decides its future.
//!
//! Owns what is left out and what counts as the same. Never decides anything: the planner and the controllers are the
//! real ones of this crate and of `kubevirt-rollout`.
//!
//! # Why two worlds with one print have one future
//! The print leaves out resourceVersions, uids, names made from them, and absolute times. Nothing that decides reads
//! them: a resourceVersion or a uid is only ever compared with the one that was seen, and whether a held step has become
//! stale is kept by whoever holds it ([`Cluster::touched`] says what a change has touched). Times are read as ages only,
//! each against thresholds of the policy or of Kubernetes, and beyond the longest of them an age is one. Of the KubeVirt
//! object's status it keeps what a plan is made from ([`decisive`]). The model compares every twentieth world that it
//! meets again with the one that it has kept: the same plan, and the same next second.
//!
//! # What it can miss
//! - A status that differs only in words (messages, times, generations) is not a write here. In the real world it may
//!   make another operator's status stale; that is the same as the other operator's death just before it, which is tried.
//! - The seconds that a pod needs are not drawn: a pod serves as soon as it runs, or, where the model is asked for slow
//!   seconds, any number of seconds later, for all of them together. The DaemonSet's controller takes the nodes in one
//!   order: they are alike.
//! - Certificates never get old, since a day is longer than every age that counts; and there is only one CA, so since when
//!   it is in the bundle decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{InstallConfig, Manifest, ManifestSet, manifests};
use kubevirt_rollout::observed::{Handle, StrategyJobState};
use kubevirt_rollout::{Policy, Precondition, Step};
use kubevirt_types::kubevirt::KubeVirtStatus;
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::controllers::GUARD_DELAY;
use crate::kubelet::{Container, PROBE};
use crate::misfortune::EVICTION;
use crate::pods::SimPod;
use crate::random::Random;
use crate::timeless::is_time;

/// What a short release has, of each kind that the order treats in a way of its own.
const KEPT: [&str; 7] = [
    "virtualmachines.kubevirt.io",
    "virtualmachineinstancereplicasets.kubevirt.io",
    "kubevirt-controller",
    "virt-handler",
    "virt-controller",
    "virt-api",
    "virt-api-validator",
];
/// A Service that only the older release has, so that there is an orphan.
const ORPHAN: &str = "only-in-v0-17-0";

/// A release with a CRD of both releases and one of the newer, a role, the three workloads, their Service and a webhook.
pub fn short(release: &Release) -> ManifestSet {
    let config = InstallConfig::of(release.clone());
    let other = if *release == Release::V0_17_0 { Release::V0_18_0 } else { Release::V0_17_0 };
    let other = manifests(&InstallConfig::of(other));
    let mut set = manifests(&config);
    let service = set.manifests.iter().find(|one| one.key.kind == "Service").cloned();
    set.manifests.retain(|one| {
        KEPT.contains(&one.key.name.as_str())
            && !["ServiceAccount", "ClusterRoleBinding", "Role", "RoleBinding"]
                .contains(&one.key.kind.as_str())
    });
    if *release == Release::V0_17_0
        && let Some(mut orphan) = service
    {
        orphan.key.name = ORPHAN.to_owned();
        orphan.body["metadata"]["name"] = json!(ORPHAN);
        set.manifests.push(orphan);
    }
    for manifest in &mut set.manifests {
        shorten(manifest, other.get(&manifest.key));
        *manifest = manifest.clone().rehashed();
    }
    set
}

/// Leaves out what neither the planner nor the controllers of this crate look at. Of lists that both releases have it
/// keeps one entry that they share, and all in which they differ.
fn shorten(manifest: &mut Manifest, other: Option<&Manifest>) {
    let differing = |list: &Value, others: &Value| -> Value {
        let others = others.as_array();
        let shared = |one: &Value| others.is_some_and(|others| others.contains(one));
        let list = list.as_array().cloned().unwrap_or_default();
        let mut kept: Vec<Value> = list.iter().find(|one| shared(one)).cloned().into_iter().collect();
        kept.extend(list.into_iter().filter(|one| !shared(one)));
        json!(kept)
    };
    let others = |field: &str| other.map_or(Value::Null, |other| other.body[field].clone());
    let spec = manifest.body["spec"].clone();
    match manifest.key.kind.as_str() {
        "CustomResourceDefinition" => {
            let mut versions = spec["versions"].clone();
            for version in versions.as_array_mut().into_iter().flatten() {
                let schema = kubevirt_manifests::config::hash(&version["schema"].to_string());
                *version = json!({"name": version["name"], "served": version["served"], "storage": version["storage"], "schema": schema});
            }
            manifest.body["spec"] =
                json!({"group": spec["group"], "names": spec["names"], "versions": versions});
        }
        "ClusterRole" => {
            manifest.body["rules"] = differing(&manifest.body["rules"], &others("rules"));
        }
        "ValidatingWebhookConfiguration" => {
            manifest.body["webhooks"] = differing(&manifest.body["webhooks"], &others("webhooks"));
            for hook in manifest.body["webhooks"].as_array_mut().into_iter().flatten() {
                *hook = json!({"name": hook["name"], "clientConfig": hook["clientConfig"]});
            }
        }
        "Deployment" | "DaemonSet" => {
            let template = &spec["template"];
            let image = &template["spec"]["containers"][0]["image"];
            let mut short = json!({
                "template": {"metadata": template["metadata"], "spec": {"containers": [{"image": image}]}},
            });
            for field in ["replicas", "strategy", "updateStrategy", "minReadySeconds"] {
                if let Some(value) = spec.get(field) {
                    short[field] = value.clone();
                }
            }
            manifest.body["spec"] = short;
        }
        _ => {}
    }
}

/// What a precondition compares: a uid and a resourceVersion.
type Seen<'a> = (&'a str, &'a str);

impl Cluster {
    /// Two nodes, and the short releases; nothing is installed yet.
    pub fn small(operator: Release) -> Self {
        let mut cluster = Self::new(2, operator, 0);
        cluster.set_drain(SignedDuration::from_secs(1));
        for release in Release::ALL {
            cluster.publish_manifests(short(&release));
        }
        cluster
    }

    /// A second passes. Nothing in it is left to chance: the controllers take the nodes in one order, and a pod answers
    /// as soon as it runs.
    pub fn second(&mut self) {
        self.log.clear();
        self.random = Random::new(0);
        self.tick();
        for pod in self.pods.iter_mut().filter(|pod| pod.created == self.now) {
            pod.answers_after = SignedDuration::ZERO;
        }
    }

    /// A second passes in which no pod gets Ready. False when none is on its way.
    pub fn slow_second(&mut self) -> bool {
        let now = self.now;
        let starting = |pod: &&mut SimPod| pod.lives() && pod.ready_since.is_none();
        let later = SignedDuration::from_secs(1);
        let mut any = false;
        for pod in self.pods.iter_mut().filter(starting) {
            pod.answers_after = answers_in(pod, now) + ran_for(pod, now) + later;
            any = true;
        }
        if any {
            self.second();
        }
        any
    }

    /// What a pod's own release brings for it and is not there (I8): a Service or a CRD.
    pub fn lacking(&self) -> Option<String> {
        self.pods.iter().filter(|pod| pod.lives()).find_map(|pod| {
            let set = self.manifests(&InstallConfig::of(pod.release.clone()));
            let brought =
                |one: &&Manifest| ["Service", "CustomResourceDefinition"].contains(&one.key.kind.as_str());
            let gone =
                set.manifests.iter().filter(brought).find(|one| !self.objects.contains_key(&one.key))?;
            Some(format!("I8: {} is gone beside {}", gone.key, pod.name))
        })
    }

    /// The objects here that are not as they were, or not there, in what became of this cluster.
    pub fn touched(&self, after: &Self) -> BTreeSet<ObjectKey> {
        let now = after.versions();
        let touched =
            |(key, version): (&ObjectKey, Seen<'_>)| (now.get(key) != Some(&version)).then(|| key.clone());
        let mut all: BTreeSet<ObjectKey> = self.versions().into_iter().filter_map(touched).collect();
        if self.kubevirt_version() != after.kubevirt_version() {
            all.insert(self.kubevirt_key());
        }
        all
    }

    /// Every object that a step may name, with what a precondition compares.
    fn versions(&self) -> BTreeMap<&ObjectKey, Seen<'_>> {
        let objects = self.objects.iter().map(|(key, live)| {
            let version = live["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            (key, (live["metadata"]["uid"].as_str().unwrap_or_default(), version))
        });
        let handles = self
            .handles()
            .map(|handle| (&handle.key, (handle.uid.as_str(), handle.resource_version.as_str())));
        objects.chain(handles).collect()
    }

    fn kubevirt_version(&self) -> Option<Seen<'_>> {
        let kubevirt = self.kubevirt.as_ref()?;
        Some((kubevirt.uid(), kubevirt.metadata.resource_version.as_deref().unwrap_or_default()))
    }

    /// The KubeVirt object's key.
    pub fn kubevirt_key(&self) -> ObjectKey {
        ObjectKey::namespaced(kubevirt_types::API_VERSION, "KubeVirt", &self.operator.namespace, "kubevirt")
    }

    fn handles(&self) -> impl Iterator<Item = &Handle> {
        let jobs = self.jobs.iter().map(|job| &job.job.handle);
        let strategies = self.strategies.values().map(|(handle, _)| handle);
        let certificates = self.ca.iter().chain(self.leaves.values()).map(|certificate| &certificate.handle);
        jobs.chain(strategies).chain(certificates)
    }

    /// The object whose version a step names; none for one that names none.
    pub fn named_by(&self, step: &Step) -> Option<ObjectKey> {
        match step {
            Step::Apply { manifest, precondition: Precondition::Unchanged { .. } } => {
                Some(manifest.key.clone())
            }
            Step::Delete { key, .. } => Some(key.clone()),
            Step::IssueCa { secret, precondition: Precondition::Unchanged { .. }, .. }
            | Step::IssueLeaf { secret, precondition: Precondition::Unchanged { .. }, .. } => {
                Some(secret.clone())
            }
            Step::MigrateStorage { crd, .. } => Some(crd.clone()),
            Step::AddFinalizer { .. } | Step::RemoveFinalizer { .. } => Some(self.kubevirt_key()),
            Step::Apply { precondition: Precondition::Absent, .. }
            | Step::IssueCa { precondition: Precondition::Absent, .. }
            | Step::IssueLeaf { precondition: Precondition::Absent, .. }
            | Step::DeleteInstances { .. }
            | Step::CreateStrategyJob { .. }
            | Step::StoreStrategy { .. }
            | Step::CleanNode { .. } => None,
        }
    }

    /// The same step, as it would name the object that lives now.
    pub fn renamed(&self, step: &Step) -> Step {
        let mut step = step.clone();
        let Some(key) = self.named_by(&step) else { return step };
        let seen =
            if key == self.kubevirt_key() { self.kubevirt_version() } else { self.versions().remove(&key) };
        let Some((seen_uid, seen_version)) = seen else { return step };
        match &mut step {
            Step::Apply { precondition: Precondition::Unchanged { uid, resource_version }, .. }
            | Step::IssueCa { precondition: Precondition::Unchanged { uid, resource_version }, .. }
            | Step::IssueLeaf { precondition: Precondition::Unchanged { uid, resource_version }, .. }
            | Step::Delete { uid, resource_version, .. }
            | Step::MigrateStorage { uid, resource_version, .. }
            | Step::AddFinalizer { uid, resource_version, .. }
            | Step::RemoveFinalizer { uid, resource_version, .. } => {
                *uid = seen_uid.to_owned();
                *resource_version = seen_version.to_owned();
            }
            _ => {}
        }
        step
    }

    /// The same step, as a writer sends it that doesn't care what it saw.
    pub fn forced(&self, step: &Step) -> Step {
        let mut step = self.renamed(step);
        if let Step::Apply { manifest, precondition } = &mut step {
            *precondition = match self.versions().remove(&manifest.key) {
                Some((uid, version)) => {
                    Precondition::Unchanged { uid: uid.to_owned(), resource_version: version.to_owned() }
                }
                None => Precondition::Absent,
            };
        }
        step
    }

    /// A hash of everything that decides what can happen from here, under a policy.
    pub fn print(&self, policy: &Policy) -> u64 {
        let mut into = DefaultHasher::new();
        let age = |at: Timestamp, most: SignedDuration| self.now.duration_since(at).min(most).as_secs();
        if let Some(kubevirt) = &self.kubevirt {
            serde_json::to_string(&kubevirt.spec).unwrap_or_default().hash(&mut into);
            kubevirt.metadata.finalizers.hash(&mut into);
            kubevirt.metadata.annotations.hash(&mut into);
            kubevirt.is_deleting().hash(&mut into);
            kubevirt.status.as_ref().map(decisive).hash(&mut into);
        }
        for (key, live) in &self.objects {
            key.hash(&mut into);
            object(live, &mut into);
        }
        self.pods(policy, &mut into);
        for node in &self.nodes {
            let index = |uid: &String| self.pods.iter().position(|pod| pod.uid == *uid);
            let said =
                node.handler_pod.as_ref().map(|name| self.pods.iter().position(|pod| pod.name == *name));
            let holder = node.holder.as_ref().map(|(uid, since)| {
                let holder = index(uid);
                // since when decides only until it has said so
                (holder, (said != Some(holder)).then(|| age(*since, PROBE)))
            });
            let silent = [node.silent_since, node.not_ready_since, node.back_since]
                .map(|since| since.map(|at| age(at, EVICTION)));
            (&node.name, silent, node.cordoned, holder, node.schedulable, said).hash(&mut into);
        }
        for set in &self.replica_sets {
            (&set.deployment, &set.hash, set.replicas, set.min_ready.as_secs()).hash(&mut into);
        }
        self.strategies.keys().for_each(|id| id.hash(&mut into));
        for job in &self.jobs {
            (&job.job.deployment_id, job.job.deleting, self.left(job.over)).hash(&mut into);
            let retry = policy.strategy_retry;
            let (state, at) = match &job.job.state {
                StrategyJobState::Running => (0, None),
                StrategyJobState::Stuck(_) => (1, None),
                StrategyJobState::Succeeded { at } => (2, Some(age(*at, retry))),
                StrategyJobState::Failed { at, .. } => (3, Some(age(*at, retry))),
            };
            (state, at).hash(&mut into);
        }
        self.guard_since.map(|since| age(since, GUARD_DELAY)).hash(&mut into);
        self.instances.hash(&mut into);
        for rule in &self.faults {
            (&rule.image, &rule.node, rule.fault).hash(&mut into);
        }
        self.images.hash(&mut into);
        into.finish()
    }

    /// The pods, in the order of their making. Who has been Ready for longer decides whatever the age.
    fn pods(&self, policy: &Policy, into: &mut DefaultHasher) {
        let age = |at: Timestamp, most: SignedDuration| self.now.duration_since(at).min(most).as_secs();
        let deadline = policy.pod_deadline.max(policy.image_deadline);
        for pod in &self.pods {
            let ready_before =
                |other: &&SimPod| other.component == pod.component && other.ready_since < pod.ready_since;
            let rank = self.pods.iter().filter(ready_before).count();
            (&pod.component, &pod.node, pod.bound, &pod.image, &pod.template_hash, rank).hash(into);
            let container = match &pod.life.container {
                Container::Creating { until } => (0, self.left(*until), ""),
                Container::Running { .. } => (1, 0, ""),
                Container::Ended => (2, 0, ""),
                Container::BackOff { reason, until } => (3, self.left(*until), *reason),
            };
            self.fault(pod).hash(into);
            let crashed = pod.life.crashed.map(|at| age(at, policy.forgiven));
            (container, pod.life.restarts, crashed, pod.reported).hash(into);
            // when a pod that is Ready was made, and since when it runs, decides nothing any more
            let made = pod.ready_since.is_none().then(|| age(pod.created, deadline));
            (made, answers_in(pod, self.now).as_secs()).hash(into);
            // it stands by for one soak, and is tried for another
            (
                pod.ready_since.map(|at| age(at, policy.soak * 2)),
                pod.unready_since.map(|at| age(at, deadline)),
            )
                .hash(into);
            (pod.deleting_since.map(|at| age(at, policy.handover)), pod.gone_at.map(|at| self.left(at)))
                .hash(into);
        }
    }

    /// Seconds until then.
    fn left(&self, at: Timestamp) -> i64 {
        at.duration_since(self.now).max(SignedDuration::ZERO).as_secs()
    }
}

/// For how long a pod's container has run.
fn ran_for(pod: &SimPod, now: Timestamp) -> SignedDuration {
    match &pod.life.container {
        Container::Running { since } => now.duration_since(*since),
        Container::Creating { .. } | Container::Ended | Container::BackOff { .. } => SignedDuration::ZERO,
    }
}

/// How long it takes until a pod answers.
fn answers_in(pod: &SimPod, now: Timestamp) -> SignedDuration {
    (pod.answers_after - ran_for(pod, now)).max(SignedDuration::ZERO)
}

/// What of a status a plan is made from.
pub fn decisive(status: &KubeVirtStatus) -> [Option<String>; 6] {
    let failed = status.failed_update.as_ref();
    [
        status.observed_kube_virt_version.clone(),
        status.observed_deployment_id.clone(),
        status.target_deployment_id.clone(),
        failed.map(|failed| failed.deployment_id.clone()),
        failed.map(|failed| format!("{:?}", failed.action)),
        failed.and_then(|failed| failed.retry.clone()),
    ]
}

/// An object without its uid, its version, and the absolute count of its generations.
fn object(live: &Value, into: &mut DefaultHasher) {
    let generation = &live["metadata"]["generation"];
    let seen = &live["status"]["observedGeneration"];
    (generation == seen, live.pointer("/metadata/deletionTimestamp").is_some()).hash(into);
    let mut sum = 0_u64;
    for (field, value) in live.as_object().into_iter().flatten() {
        let left_out: &[&str] = match field.as_str() {
            "metadata" => &["uid", "resourceVersion", "generation", "deletionTimestamp"],
            "status" => &["observedGeneration"],
            _ => &[],
        };
        let fields = value.as_object().into_iter().flatten();
        let of_fields = fields
            .filter(|(name, _)| !left_out.contains(&name.as_str()))
            .fold(0_u64, |sum, (name, value)| sum.wrapping_add(of_field(name, value)));
        let whole = if value.is_object() { Value::from(of_fields) } else { value.clone() };
        sum = sum.wrapping_add(of_field(field, &whole));
    }
    sum.hash(into);
}

/// A field's hash. The order of an object's fields says nothing, so they are added up.
fn of_field(name: &str, value: &Value) -> u64 {
    let mut into = DefaultHasher::new();
    name.hash(&mut into);
    of_value(value, &mut into);
    into.finish()
}

fn of_value(value: &Value, into: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !is_time(name))
            .fold(0_u64, |sum, (name, value)| sum.wrapping_add(of_field(name, value)))
            .hash(into),
        Value::Array(list) => {
            list.len().hash(into);
            list.iter().for_each(|value| of_value(value, into));
        }
        Value::String(text) => text.hash(into),
        Value::Null => 0_u8.hash(into),
        Value::Bool(yes) => yes.hash(into),
        Value::Number(number) => number.hash(into),
    }
}
