//! The cluster's state, and what users and misfortune do to it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_rollout::observed::{CaCertificate, Certificate, Handle, StrategyJob};
use kubevirt_types::{KubeVirt, ObjectKey, Release};
use serde_json::{Value, json};

use crate::random::Random;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The image can't be pulled.
    ImageMissing,
    /// The container crashes.
    Crashes,
    /// It never gets Ready.
    NeverReady,
}

/// One pod of the control plane.
#[derive(Debug, Clone, PartialEq)]
pub struct SimPod {
    pub(crate) component: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) template_hash: Option<String>,
    pub(crate) release: Release,
    pub(crate) created: Timestamp,
    pub(crate) ready_at: Timestamp,
    pub(crate) ready_since: Option<Timestamp>,
    pub(crate) deleting_since: Option<Timestamp>,
    pub(crate) gone_at: Option<Timestamp>,
    pub(crate) reported: bool,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct SimNode {
    pub(crate) name: String,
    pub(crate) not_ready_since: Option<Timestamp>,
    pub(crate) labels: Vec<String>,
}

/// A cluster in memory.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) now: Timestamp,
    pub(crate) version: u64,
    pub(crate) random: Random,
    /// The operator's release and registry.
    pub(crate) operator: InstallConfig,
    pub(crate) kubevirt: Option<KubeVirt>,
    pub(crate) objects: BTreeMap<ObjectKey, Value>,
    pub(crate) pods: Vec<SimPod>,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) strategies: BTreeMap<String, (Handle, Arc<ManifestSet>)>,
    pub(crate) jobs: Vec<(StrategyJob, Timestamp)>,
    pub(crate) ca: Option<Certificate>,
    pub(crate) bundle_known: Vec<CaCertificate>,
    pub(crate) leaves: BTreeMap<String, Certificate>,
    pub(crate) instances: BTreeMap<String, Vec<(String, bool)>>,
    pub(crate) guard_since: Option<Timestamp>,
    pub(crate) faults: BTreeMap<(String, Release), Fault>,
    pub(crate) images: BTreeSet<Release>,
    /// How long a deleted pod goes on carrying streams.
    pub(crate) drain: SignedDuration,
    pub(crate) generated: RefCell<BTreeMap<String, Arc<ManifestSet>>>,
    /// Every write that was accepted, in words.
    pub log: Vec<String>,
}

/// The same set with a digest in the place of every schema: they are nine tenths of it, and nobody here reads them.
fn small(mut set: ManifestSet) -> ManifestSet {
    for manifest in &mut set.manifests {
        for version in manifest.body["spec"]["versions"].as_array_mut().into_iter().flatten() {
            let digest = kubevirt_manifests::config::hash(&version["schema"].to_string());
            version["schema"] = json!({"openAPIV3Schema": {"type": "object", "description": digest}});
        }
    }
    set
}

impl Cluster {
    /// A cluster of so many nodes, with an operator of this release and an empty KubeVirt object.
    pub fn new(nodes: usize, operator: Release, seed: u64) -> Self {
        let operator = InstallConfig::of(operator);
        let mut cluster = Self {
            now: "2026-01-01T00:00:00Z".parse().expect("it is a time"),
            version: 1,
            random: Random::new(seed),
            kubevirt: None,
            objects: BTreeMap::new(),
            pods: vec![],
            nodes: (1..=nodes)
                .map(|n| SimNode {
                    name: format!("node-{n}"),
                    not_ready_since: None,
                    labels: vec!["kubevirt.io/schedulable".into()],
                })
                .collect(),
            strategies: BTreeMap::new(),
            jobs: vec![],
            ca: None,
            bundle_known: vec![],
            leaves: BTreeMap::new(),
            instances: BTreeMap::new(),
            guard_since: None,
            faults: BTreeMap::new(),
            images: Release::ALL.into(),
            drain: SignedDuration::from_secs(3),
            generated: RefCell::default(),
            log: vec![],
            operator,
        };
        let uid = cluster.next_uid();
        let version = cluster.bump();
        cluster.kubevirt = serde_json::from_value(json!({
            "metadata": {
                "name": "kubevirt", "namespace": cluster.operator.namespace,
                "uid": uid, "resourceVersion": version, "generation": 1,
            },
            "spec": {},
        }))
        .ok();
        cluster
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Moves with every change that anybody makes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The KubeVirt object; none when it is gone.
    pub fn kubevirt(&self) -> Option<&KubeVirt> {
        self.kubevirt.as_ref()
    }

    /// A live object.
    pub fn object(&self, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(key)
    }

    /// Every live object without what differs between two clusters that went other ways to the same end.
    pub fn contents(&self) -> BTreeMap<ObjectKey, Value> {
        self.objects
            .iter()
            .map(|(key, live)| {
                let mut live = live.clone();
                if let Some(metadata) = live["metadata"].as_object_mut() {
                    for field in ["uid", "resourceVersion", "generation"] {
                        metadata.shift_remove(field);
                    }
                }
                if let Some(object) = live.as_object_mut() {
                    object.shift_remove("status");
                }
                (key.clone(), live)
            })
            .collect()
    }

    /// How many pods of a component of this release serve.
    pub fn serving(&self, component: &str, release: &Release) -> usize {
        self.pods
            .iter()
            .filter(|pod| {
                pod.component == component
                    && pod.release == *release
                    && pod.ready_since.is_some()
                    && pod.deleting_since.is_none()
            })
            .count()
    }

    pub(crate) fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(crate) fn next_uid(&mut self) -> String {
        self.version += 1;
        format!("uid-{}", self.version)
    }

    /// The manifests of a config, made once.
    pub fn manifests(&self, config: &InstallConfig) -> Arc<ManifestSet> {
        let mut generated = self.generated.borrow_mut();
        generated.entry(config.id()).or_insert_with(|| Arc::new(small(manifests(config)))).clone()
    }

    fn touch(&mut self) {
        let version = self.bump();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.metadata.resource_version = Some(version);
        }
    }

    /// A user sets `spec.imageTag`.
    pub fn set_image_tag(&mut self, tag: Option<&str>) {
        self.touch();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.spec.image_tag = tag.map(str::to_owned);
            *kubevirt.metadata.generation.get_or_insert(0) += 1;
        }
    }

    /// A user changes something that touches no pod template.
    pub fn set_log_verbosity(&mut self) {
        self.touch();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.spec.configuration = Some(kubevirt_types::kubevirt::KubeVirtConfiguration::default());
            *kubevirt.metadata.generation.get_or_insert(0) += 1;
        }
    }

    /// A user sets `spec.imageRegistry`.
    pub fn set_registry(&mut self, registry: &str) {
        self.touch();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.spec.image_registry = Some(registry.to_owned());
            *kubevirt.metadata.generation.get_or_insert(0) += 1;
        }
    }

    /// A user applies the operator's manifest of another release.
    pub fn set_operator(&mut self, release: Release) {
        self.version += 1;
        self.operator.release = release;
    }

    /// A user deletes the KubeVirt object.
    pub fn delete_kubevirt(&mut self) {
        self.touch();
        let now = self.now;
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.metadata.deletion_timestamp =
                serde_json::from_value(json!(now.to_string())).expect("a time is a deletion timestamp");
        }
    }

    /// A user makes an object of one of our kinds. Refused while the guard is enforced and guards it.
    ///
    /// # Errors
    /// The guard's message, or that the kind doesn't exist.
    pub fn create_instance(&mut self, plural: &str, name: &str) -> Result<(), String> {
        let crd = format!("{plural}.kubevirt.io");
        let exists = self.objects.iter().any(|(key, live)| {
            key.kind == "CustomResourceDefinition"
                && key.name == crd
                && live.pointer("/metadata/deletionTimestamp").is_none()
        });
        if !exists {
            return Err(format!("{plural} is not a kind"));
        }
        if let Some(message) = self.guard_refuses(plural) {
            return Err(message);
        }
        self.version += 1;
        self.instances.entry(plural.to_owned()).or_default().push((format!("default/{name}"), false));
        Ok(())
    }

    /// A user deletes one.
    pub fn delete_instance(&mut self, plural: &str, name: &str) {
        self.version += 1;
        for (other, deleting) in self.instances.entry(plural.to_owned()).or_default() {
            if *other == format!("default/{name}") {
                *deleting = true;
            }
        }
    }

    /// Every object of a kind, by name.
    pub fn instances(&self, plural: &str) -> usize {
        self.instances.get(plural).map_or(0, Vec::len)
    }

    /// Why the guard refuses a new object of this kind; none when it doesn't.
    pub fn guard_refuses(&self, plural: &str) -> Option<String> {
        if !self.guard_active() {
            return None;
        }
        let policy = self.objects.iter().find(|(key, _)| key.kind == "ValidatingAdmissionPolicy")?.1;
        let expression = format!("request.resource.resource != '{plural}'");
        policy["spec"]["validations"]
            .as_array()?
            .iter()
            .find(|validation| validation["expression"] == expression)
            .map(|validation| validation["message"].as_str().unwrap_or_default().to_owned())
    }

    /// From now on, new pods of a component of a release fail.
    pub fn inject(&mut self, component: &str, release: Release, fault: Fault) {
        self.faults.insert((component.to_owned(), release), fault);
    }

    /// The release's images can't be pulled any more, by pods that start from now on.
    pub fn lose_images(&mut self, release: &Release) {
        self.images.remove(release);
    }

    /// A release's images can be pulled from now on.
    pub fn publish_images(&mut self, release: Release) {
        self.images.insert(release);
    }

    /// A release's operator image makes these manifests from now on.
    pub fn publish_manifests(&mut self, set: ManifestSet) {
        self.images.insert(set.config.release.clone());
        self.generated.borrow_mut().insert(set.config.id(), Arc::new(set));
    }

    /// Deleted pods go on carrying streams for so long.
    pub fn set_drain(&mut self, drain: SignedDuration) {
        self.drain = drain;
    }

    /// Somebody deletes an object behind the operator's back.
    pub fn vandalise(&mut self, key: &ObjectKey) {
        self.version += 1;
        self.objects.remove(key);
    }

    /// Somebody changes an object behind the operator's back.
    pub fn tamper(&mut self, key: &ObjectKey, pointer: &str, value: Value) {
        let version = self.bump();
        if let Some(live) = self.objects.get_mut(key) {
            if let Some(field) = live.pointer_mut(pointer) {
                *field = value;
            }
            live["metadata"]["resourceVersion"] = json!(version);
            let generation = live["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
            live["metadata"]["generation"] = json!(generation);
        }
    }

    /// A certificate's time passes.
    pub fn advance(&mut self, by: SignedDuration) {
        self.version += 1;
        self.now = self.now.saturating_add(by).unwrap_or(self.now);
    }
}
