//! A world of any size, brought to where it is by the planner's own steps.
//!
//! Takes writes as an API server would that refuses nothing, and has the pods that it is told to have. What a cluster
//! does on its way is `kubevirt-sim`'s; this is only as large as it has to be, quickly.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_rollout::observed::{
    CaCertificate, Certificate, CertificateContent, Certificates, Handle, Instances, Node, Operator, Pod,
    StoredStrategy,
};
use kubevirt_rollout::order::Component;
use kubevirt_rollout::{Observed, Plan, Policy, Step, plan, status};
use kubevirt_types::gate::Reporter;
use kubevirt_types::{ObjectKey, Release, labels};
use serde_json::{Value, json};

/// Nobody waits longer for anything in the planner's policy.
const LONG: SignedDuration = SignedDuration::from_hours(1);
/// So many rounds bring any change as far as it gets without other pods.
const ROUNDS: usize = 60;

/// A world.
pub struct World {
    pub observed: Observed,
    pub now: Timestamp,
    /// Every other reporter has not reported yet.
    pub half_silent: bool,
    version: u64,
    /// A pod of each template that a component's workload has had, the newest last.
    templates: BTreeMap<Component, Vec<(String, Release)>>,
}

/// How many virt-handlers there are of the templates before the newest and of the newest.
#[derive(Clone, Copy)]
pub struct Handlers {
    pub old: usize,
    pub new: usize,
}

impl World {
    /// An installation of a release on so many nodes, with ten VMs on each of them.
    pub fn installed(release: Release, nodes: usize) -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("it is a time");
        let mut world = Self {
            observed: nothing(nodes),
            now,
            half_silent: false,
            version: 0,
            templates: BTreeMap::new(),
        };
        world.know(&Release::V0_17_0);
        world.know(&Release::V0_18_0);
        world.set_tag(&release);
        world.go(Handlers { old: 0, new: nodes });
        let arrived = world.observed.kubevirt.as_ref().and_then(|kv| kv.status.as_ref());
        let arrived = arrived.and_then(|status| status.observed_kube_virt_version.clone());
        assert_eq!(arrived, Some(release.to_string()), "the installation has come to its end");
        world
    }

    /// Asks for a release.
    pub fn set_tag(&mut self, release: &Release) {
        let kubevirt = self.observed.kubevirt.as_mut().expect("there is one");
        kubevirt.spec.image_tag = Some(release.to_string());
    }

    /// The plan of now.
    pub fn plan(&self) -> Plan {
        plan(&self.observed, &Policy::default(), self.now)
    }

    /// Carries plans out until there are no more steps, with these virt-handlers.
    pub fn go(&mut self, handlers: Handlers) {
        for _ in 0..ROUNDS {
            self.run_pods(handlers);
            let plan = self.plan();
            let status = status(&self.observed, &plan, self.now);
            if let Some(kubevirt) = &mut self.observed.kubevirt {
                kubevirt.status = Some(status);
            }
            plan.steps.iter().for_each(|step| self.take(step));
            self.now = self.now.saturating_add(LONG).expect("it isn't the end of time");
        }
        self.run_pods(handlers);
        let left = self.plan();
        assert!(left.steps.is_empty(), "{:?} {} waits for {:?}", left.direction, left.stage, left.waiting_on);
    }

    /// Has a release's manifests stored.
    pub fn know(&mut self, release: &Release) {
        let config = InstallConfig {
            registry: self.observed.operator.registry.clone(),
            ..InstallConfig::of(release.clone())
        };
        self.store(Arc::new(manifests(&config)));
    }

    fn store(&mut self, set: Arc<ManifestSet>) {
        let id = set.config.id();
        let key =
            ObjectKey::namespaced("v1", "ConfigMap", "kubevirt", &format!("kubevirt-install-strategy-{id}"));
        let stored = StoredStrategy { handle: self.handle(key), set };
        self.observed.strategies.insert(id, stored);
    }

    fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn handle(&mut self, key: ObjectKey) -> Handle {
        let resource_version = self.bump();
        Handle { uid: format!("uid-{key}"), key, resource_version }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Apply { manifest, .. } => self.apply(&manifest.key, &manifest.body),
            Step::Delete { key, .. } => {
                self.observed.objects.remove(key);
                self.observed.strategies.retain(|_, stored| stored.handle.key != *key);
            }
            Step::StoreStrategy { set } => self.store(Arc::new(ManifestSet::clone(set))),
            Step::IssueCa { secret, common_name, duration, .. } => {
                let content = self.content(common_name, vec![], *duration, None);
                let handle = self.handle(secret.clone());
                let authority = CaCertificate {
                    fingerprint: content.fingerprint.clone(),
                    not_before: content.not_before,
                    not_after: content.not_after,
                    pem: content.pem.clone(),
                };
                self.observed.certificates.bundle.insert(0, authority);
                self.observed.certificates.ca = Some(Certificate { handle, content: Some(content) });
            }
            Step::IssueLeaf { secret, common_name, dns_names, duration, ca_fingerprint, .. } => {
                let signer = Some(ca_fingerprint.clone());
                let content = self.content(common_name, dns_names.clone(), *duration, signer);
                let leaf = Certificate { handle: self.handle(secret.clone()), content: Some(content) };
                self.observed.certificates.leaves.insert(secret.name.clone(), leaf);
            }
            Step::AddFinalizer { finalizer, .. } => {
                let kubevirt = self.observed.kubevirt.as_mut().expect("there is one");
                kubevirt.metadata.finalizers.get_or_insert_default().push(finalizer.clone());
            }
            Step::DeleteInstances { .. }
            | Step::CreateStrategyJob { .. }
            | Step::RemoveFinalizer { .. }
            | Step::MigrateStorage { .. }
            | Step::CleanNode { .. } => panic!("this world has no need of: {step}"),
        }
    }

    fn apply(&mut self, key: &ObjectKey, body: &Value) {
        let version = self.bump();
        let was = self.observed.objects.get(key);
        let generation = was.and_then(|live| live["metadata"]["generation"].as_u64()).unwrap_or(0) + 1;
        let mut live = body.clone();
        live["metadata"]["uid"] = json!(format!("uid-{key}"));
        live["metadata"]["resourceVersion"] = json!(version);
        live["metadata"]["generation"] = json!(generation);
        live["status"] = match key.kind.as_str() {
            "CustomResourceDefinition" => json!({
                "conditions": [{"type": "Established", "status": "True"}], "storedVersions": ["v1"],
            }),
            "DaemonSet" | "Deployment" => json!({
                "observedGeneration": generation, "desiredNumberScheduled": self.observed.nodes.len(),
            }),
            _ => Value::Null,
        };
        self.observed.guard_active |= key.kind == "ValidatingAdmissionPolicyBinding";
        for component in Component::ALL.into_iter().filter(|component| component.key("kubevirt") == *key) {
            let template = &body["spec"]["template"]["metadata"];
            let hash =
                template["annotations"][labels::TEMPLATE_HASH].as_str().expect("it has a hash").to_owned();
            let release =
                template["labels"][labels::REPORT_VERSION].as_str().and_then(|text| text.parse().ok());
            let known = self.templates.entry(component).or_default();
            known.retain(|(other, _)| *other != hash);
            known.push((hash, release.expect("a template names its release")));
        }
        self.observed.objects.insert(key.clone(), live);
    }

    fn content(
        &mut self,
        common_name: &str,
        dns_names: Vec<String>,
        duration: SignedDuration,
        signed_by: Option<String>,
    ) -> CertificateContent {
        let fingerprint = format!("certificate-{}", self.bump());
        CertificateContent {
            pem: format!("{fingerprint}\n"),
            signed_by: signed_by.or_else(|| Some(fingerprint.clone())),
            fingerprint,
            common_name: common_name.to_owned(),
            dns_names,
            not_before: self.now,
            not_after: self.now.saturating_add(duration).expect("it isn't the end of time"),
            duration: Some(kubevirt_rollout::duration::format(duration)),
        }
    }

    /// Two pods of each Deployment as it is now, and these of virt-handler. A node's new one stands beside its old one
    /// as long as there are more than nodes. Every pod has served for a long time.
    fn run_pods(&mut self, handlers: Handlers) {
        let mut pods = Vec::new();
        for component in [Component::Controller, Component::Api] {
            let newest = self.templates.get(&component).and_then(|known| known.last());
            pods.extend(newest.iter().flat_map(|template| (0..2).map(|n| self.pod(component, n, template))));
        }
        if let Some([older @ .., newest]) = self.templates.get(&Component::Handler).map(Vec::as_slice) {
            let nodes = self.observed.nodes.len();
            let old = older.last().unwrap_or(newest);
            pods.extend((0..handlers.old).map(|n| self.pod(Component::Handler, nodes - 1 - n, old)));
            pods.extend((0..handlers.new).map(|n| self.pod(Component::Handler, n, newest)));
        }
        let mut reporters = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.component != Component::Api.name()) {
            let node = pod.node.as_deref().unwrap_or_default();
            let name = match pod.component == Component::Handler.name() {
                true => format!("virt-handler on node {node}"),
                false => pod.name.clone(),
            };
            let silent = self.half_silent && reporters.len() % 2 == 0;
            let release = pod.release.clone().filter(|_| !silent);
            reporters.insert(name.clone(), Reporter { name, release });
        }
        self.observed.reporters = reporters.into_values().collect();
        let in_charge: BTreeMap<Option<String>, String> = pods
            .iter()
            .filter(|pod| pod.component == Component::Handler.name())
            .map(|pod| (pod.node.clone(), pod.name.clone()))
            .collect();
        for node in &mut self.observed.nodes {
            node.handler_pod = in_charge.get(&Some(node.name().to_owned())).cloned();
            node.heartbeat = Some(self.now);
        }
        self.observed.pods = pods;
    }

    fn pod(&self, component: Component, index: usize, (hash, release): &(String, Release)) -> Pod {
        let name = format!("{}-{}-{index:05}", component.name(), &hash[..5]);
        let since = self.now.saturating_sub(LONG).expect("it isn't the beginning of time");
        Pod {
            component: component.name().to_owned(),
            uid: format!("uid-{name}"),
            node: self.observed.nodes.get(index).map(|node| node.name().to_owned()),
            name,
            template_hash: Some(hash.clone()),
            release: Some(release.clone()),
            created: since,
            ready_since: Some(since),
            unready_since: None,
            deleting_since: None,
            restarts: 0,
            crash: None,
            trouble: None,
        }
    }
}

/// Nodes, VMs, and a KubeVirt object that nobody has looked at.
fn nothing(nodes: usize) -> Observed {
    let node = |n: usize| Node {
        handle: Handle {
            key: ObjectKey::cluster("v1", "Node", &format!("node-{n:05}")),
            uid: format!("uid-node-{n}"),
            resource_version: "1".to_owned(),
        },
        not_ready_since: None,
        ready_since: None,
        unschedulable: false,
        schedulable_label: Some("true".to_owned()),
        heartbeat: None,
        handler_pod: None,
        our_labels: vec![labels::SCHEDULABLE.to_owned()],
        our_annotations: vec![labels::HEARTBEAT.to_owned(), labels::HANDLER_POD.to_owned()],
    };
    let instances = |count: usize| Instances { count, deleting: 0, some: vec!["default/a".to_owned()] };
    Observed {
        synced: true,
        operator: Operator {
            release: Release::V0_18_0,
            registry: kubevirt_manifests::config::DEFAULT_REGISTRY.to_owned(),
            namespace: labels::DEFAULT_NAMESPACE.to_owned(),
        },
        kubevirt: serde_json::from_value(json!({
            "metadata": {
                "name": "kubevirt", "namespace": "kubevirt", "uid": "kv", "resourceVersion": "1", "generation": 1,
            },
            "spec": {},
        }))
        .expect("it is a KubeVirt object"),
        other_kubevirts: vec![],
        objects: BTreeMap::new(),
        pods: vec![],
        nodes: (0..nodes).map(node).collect(),
        strategies: BTreeMap::new(),
        strategy_jobs: vec![],
        reporters: vec![],
        guard_active: false,
        certificates: Certificates::default(),
        instances: BTreeMap::from([
            ("virtualmachines".to_owned(), instances(nodes * 10)),
            ("virtualmachineinstances".to_owned(), instances(nodes * 10)),
        ]),
    }
}
