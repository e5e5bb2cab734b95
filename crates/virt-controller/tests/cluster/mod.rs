//! A small cluster: the API server, a kubelet and a virt-handler that do what they should, and
//! any number of virt-controllers, each with its own view.

pub mod api;

use std::sync::Arc;
use std::time::Duration;

use api::Api;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, store::Writer as StoreWriter};
use kube::runtime::watcher::Event;
use kubevirt_runtime::lease::Term;
use kubevirt_types::{
    KubeVirt, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceReplicaSet,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use virt_controller::act::Writer;
use virt_controller::cache::{Cache, keys};
use virt_controller::children::Children;
use virt_controller::controller::{Context, Kind, round};
use virt_controller::heartbeats::Heartbeats;
use virt_controller::kinds::{Migrations, Sets, Vmis, Vms};

pub const VMS: &str = "virtualmachines";
pub const VMIS: &str = "virtualmachineinstances";
pub const SETS: &str = "virtualmachineinstancereplicasets";
pub const MIGRATIONS: &str = "virtualmachineinstancemigrations";
pub const PODS: &str = "pods";
pub const NODES: &str = "nodes";

/// A term that outlives every test.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// One virt-controller with its own view, which is as old as its last [`Controller::look`].
pub struct Controller {
    api: Api,
    context: Context,
    vms: StoreWriter<VirtualMachine>,
    vmis: StoreWriter<VirtualMachineInstance>,
    pods: StoreWriter<Pod>,
    sets: StoreWriter<VirtualMachineInstanceReplicaSet>,
    migrations: StoreWriter<VirtualMachineInstanceMigration>,
    nodes: StoreWriter<Node>,
}

impl Controller {
    /// A new process: its caches are filled, it knows nothing else.
    pub fn start(api: &Api) -> Self {
        let (vms_store, vms) = reflector::store();
        let (vmis_store, vmis) = reflector::store();
        let (pods_store, pods) = reflector::store();
        let (sets_store, sets) = reflector::store();
        let (migrations_store, migrations) = reflector::store();
        let (nodes_store, nodes) = reflector::store();
        let (installations, _) = reflector::store::<KubeVirt>();
        let cache = Cache {
            vms: vms_store,
            vmis: vmis_store,
            pods: pods_store,
            sets: sets_store,
            migrations: migrations_store,
            installations,
            nodes: nodes_store,
            heartbeats: Heartbeats::default(),
            launchers: Children::default(),
            members: Children::default(),
        };
        let client = api.client();
        let reporter = Reporter { controller: "virt-controller".into(), instance: Some("test".into()) };
        let term = Term::until(Instant::now() + DAY);
        let writer = Writer { client: client.clone(), recorder: Recorder::new(client, reporter), term };
        let context = Context { cache, writer, launcher_image: "launcher".into() };
        let mut controller = Self { api: api.clone(), context, vms, vmis, pods, sets, migrations, nodes };
        controller.look();
        controller
    }

    /// Brings the view up to date.
    pub fn look(&mut self) {
        let mut state = self.api.lock();
        if state.of(NODES).next().is_none() {
            for name in ["n1", "n2", "n3"] {
                let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
                let node = json!({"metadata": {"name": name}, "status": ready});
                state.objects.insert((NODES.to_owned(), name.to_owned()), node);
            }
        }
        fill(&mut self.nodes, state.of(NODES));
        fill(&mut self.vms, state.of(VMS));
        fill(&mut self.vmis, state.of(VMIS));
        fill(&mut self.pods, state.of(PODS));
        fill(&mut self.sets, state.of(SETS));
        fill(&mut self.migrations, state.of(MIGRATIONS));
        drop(state);
        let cache = &self.context.cache;
        cache.launchers.rebuild(cache.pods.state().iter().map(|pod| &pod.metadata));
        cache.members.rebuild(cache.vmis.state().iter().map(|vmi| &vmi.metadata));
    }

    /// One round over all objects, on the view as it is. An error is what a crash would give.
    pub async fn act(&self) -> Result<(), virt_controller::controller::RoundError> {
        self.each::<Vms>(keys(&self.context.cache.vms)).await?;
        self.each::<Vmis>(keys(&self.context.cache.vmis)).await?;
        self.each::<Sets>(keys(&self.context.cache.sets)).await?;
        self.each::<Migrations>(keys(&self.context.cache.migrations)).await
    }

    async fn each<K: Kind>(
        &self,
        keys: Vec<virt_controller::children::Key>,
    ) -> Result<(), virt_controller::controller::RoundError> {
        for key in keys {
            round::<K>(&self.context, &key).await?;
        }
        Ok(())
    }
}

fn fill<'a, K>(writer: &mut StoreWriter<K>, objects: impl Iterator<Item = &'a Value>)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        let object = serde_json::from_value(object.clone()).unwrap();
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
}

/// The kubelet, virt-handler and the garbage collector, one step.
pub fn surroundings(api: &Api) {
    let mut state = api.lock();
    let crash = state.crash.take();
    let pods: Vec<Value> = state.of(PODS).cloned().collect();
    for pod in pods {
        let key = (PODS.to_owned(), pod["metadata"]["name"].as_str().unwrap().to_owned());
        let owner = pod["metadata"]["ownerReferences"][0].clone();
        let orphan = !state.of(VMIS).any(|vmi| vmi["metadata"]["uid"] == owner["uid"]);
        if orphan {
            state.delete(&key, &json!({}));
        } else if pod["status"].is_null() {
            let node = free_node(&state, &owner["uid"]);
            state.patch(&key, &json!({"spec": {"nodeName": node}}), false);
            let ready = json!({"status": {
                "phase": "Running", "qosClass": "Burstable",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "compute", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"running": {}},
                }],
            }});
            state.patch(&key, &ready, true);
        }
    }
    let vmis: Vec<Value> = state.of(VMIS).cloned().collect();
    for vmi in vmis {
        let key = (VMIS.to_owned(), vmi["metadata"]["name"].as_str().unwrap().to_owned());
        let deleting = !vmi["metadata"]["deletionTimestamp"].is_null();
        let (next, ready) = match (vmi["status"]["phase"].as_str(), deleting) {
            (Some("Scheduled"), false) => ("Running", "True"),
            (Some("Scheduled" | "Running"), true) => ("Succeeded", "False"),
            _ => continue,
        };
        let reached = json!([{"phase": next, "phaseTransitionTimestamp": "2026-11-23T00:00:00Z"}]);
        let patch = json!({"status": {
            "phase": next,
            "conditions": [
                {"type": "Ready", "status": ready}, {"type": "LiveMigratable", "status": "True"},
            ],
            "phaseTransitionTimestamps": reached,
        }});
        state.patch(&key, &patch, true);
    }
    state.crash = crash;
}

/// A node that has no launcher of this instance: the first that there is, or the one that its guest can move to.
fn free_node(state: &api::State, vmi: &Value) -> &'static str {
    let there = |node: &str| state.of(NODES).any(|object| object["metadata"]["name"] == node);
    let taken = |node: &str| {
        state.of(PODS).any(|pod| {
            pod["metadata"]["ownerReferences"][0]["uid"] == *vmi && pod["spec"]["nodeName"] == node
        })
    };
    if taken("n1") || !there("n1") { "n2" } else { "n1" }
}

/// Makes an object.
pub fn create(api: &Api, plural: &str, object: Value) {
    let (code, answer) = api.lock().create(plural, object);
    assert!(code.is_success(), "{answer}");
}

/// Changes an object as a person does.
pub fn change(api: &Api, plural: &str, name: &str, patch: Value) {
    let status = patch.get("status").is_some();
    let (code, answer) = api.lock().patch(&(plural.into(), name.into()), &patch, status);
    assert!(code.is_success(), "{answer}");
}

/// An object as it is.
pub fn read(api: &Api, plural: &str, name: &str) -> Option<Value> {
    api.lock().objects.get(&(plural.into(), name.into())).cloned()
}

/// How many objects of a kind there are.
pub fn count(api: &Api, plural: &str) -> usize {
    api.lock().of(plural).count()
}

/// Rounds until nothing is written any more. A crash ends the process, and another one starts.
pub async fn settle(api: &Api) {
    let mut controller = Controller::start(api);
    for _ in 0..200 {
        let before = api.lock().objects.clone();
        let died = controller.act().await.is_err();
        if died {
            controller = Controller::start(api);
        }
        check(api);
        surroundings(api);
        controller.look();
        if !died && api.lock().objects == before {
            return;
        }
    }
    panic!("never quiet: {:?}", log(api));
}

/// What holds after every round: no instance has two launcher pods, but for a migration.
pub fn check(api: &Api) {
    let state = api.lock();
    for vmi in state.of(VMIS) {
        let uid = &vmi["metadata"]["uid"];
        let moves = state.of(MIGRATIONS).filter(|m| m["spec"]["vmiName"] == vmi["metadata"]["name"]).count();
        let alive = |pod: &&Value| {
            pod["metadata"]["ownerReferences"][0]["uid"] == *uid && pod["status"]["phase"] != "Succeeded"
        };
        let pods = state.of(PODS).filter(alive).count();
        assert!(pods <= if moves == 0 { 1 } else { 2 }, "{pods} launcher pods of one instance");
    }
}

/// A VM of this run strategy.
pub fn vm(strategy: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "vm1", "generation": 1},
        "spec": {"runStrategy": strategy, "template": {"spec": {"domain": {
            "memory": {"guest": "64Mi"}, "devices": {},
        }}}},
    })
}

/// Everything that was created and deleted so far, in order.
pub fn log(api: &Api) -> Arc<[String]> {
    api.lock().log.clone().into()
}
