//! What this replica has seen of the cluster. Watches run on every replica, leading or not, so
//! a new leader starts with a full view. Never writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::store::{Store, Writer};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_types::{
    KubeVirt, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceReplicaSet, gate, labels,
};
use serde::de::DeserializeOwned;

use crate::children::{Children, Key};
use crate::heartbeats::Heartbeats;
use crate::metrics;
use crate::queues::Queues;

/// The caches.
#[derive(Clone)]
pub struct Cache {
    /// VMs.
    pub vms: Store<VirtualMachine>,
    /// Instances.
    pub vmis: Store<VirtualMachineInstance>,
    /// Launcher pods.
    pub pods: Store<Pod>,
    /// Replica sets; stays empty in a release that has none, and while the kind doesn't exist.
    pub sets: Store<VirtualMachineInstanceReplicaSet>,
    /// Migrations.
    pub migrations: Store<VirtualMachineInstanceMigration>,
    /// Installations in our namespace.
    pub installations: Store<KubeVirt>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// When the virt-handlers of nodes were last heard.
    pub heartbeats: Heartbeats,
    /// Launcher pods by the uid of their instance.
    pub launchers: Children,
    /// Instances by the uid of what controls them.
    pub members: Children,
}

/// The object of a key.
pub fn get<K>(store: &Store<K>, key: &Key) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(&key.name).within(&key.namespace))
}

/// The key of everything in a store.
pub fn keys<K>(store: &Store<K>) -> Vec<Key>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.state().iter().map(|object| Key::of(object.meta())).collect()
}

/// Where watches are kept, and what they watch beyond VMs, instances and pods.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The namespace of our own installation.
    pub namespace: String,
    /// Whether this release has replica sets.
    pub replica_sets: bool,
}

impl Cache {
    /// Starts the watches. They run until the shutdown and ask `queues` to look at what changed.
    pub fn start(client: &Client, scope: &Scope, queues: &Arc<Queues>, shutdown: &Shutdown) -> Self {
        let (vms, vms_writer) = reflector::store();
        let (vmis, vmis_writer) = reflector::store();
        let (pods, pods_writer) = reflector::store();
        let (sets, sets_writer) = reflector::store();
        let (migrations, migrations_writer) = reflector::store();
        let (installations, installations_writer) = reflector::store();
        let (nodes, nodes_writer) = reflector::store();
        let cache = Self {
            vms,
            vmis,
            pods,
            sets,
            migrations,
            installations,
            nodes,
            heartbeats: Heartbeats::default(),
            launchers: Children::default(),
            members: Children::default(),
        };
        let everything = watch::Config::default;

        let (on_vm, all) = (queues.clone(), cache.clone());
        spawn(shutdown, Api::all(client.clone()), everything(), vms_writer, move |change| match change {
            Change::Seen(vm) | Change::Gone(vm) => on_vm.vm_changed(&vm.metadata),
            Change::Listed => all.look(&on_vm),
        });

        let (on_vmi, all) = (queues.clone(), cache.clone());
        spawn(shutdown, Api::all(client.clone()), everything(), vmis_writer, move |change| match change {
            Change::Seen(vmi) => {
                all.members.insert(&vmi.metadata);
                all.vmi_changed(&on_vmi, &vmi.metadata);
            }
            Change::Gone(vmi) => {
                all.members.remove(&vmi.metadata);
                all.vmi_changed(&on_vmi, &vmi.metadata);
            }
            Change::Listed => {
                all.members.rebuild(all.vmis.state().iter().map(|vmi| &vmi.metadata));
                all.look(&on_vmi);
            }
        });

        let (on_pod, all) = (queues.clone(), cache.clone());
        let launcher_pods = everything().labels(&format!("{}=virt-launcher", labels::APP));
        spawn(shutdown, Api::all(client.clone()), launcher_pods, pods_writer, move |change| match change {
            Change::Seen(pod) => {
                all.launchers.insert(&pod.metadata);
                on_pod.pod_changed(&pod.metadata);
            }
            Change::Gone(pod) => {
                all.launchers.remove(&pod.metadata);
                on_pod.pod_changed(&pod.metadata);
            }
            Change::Listed => {
                all.launchers.rebuild(all.pods.state().iter().map(|pod| &pod.metadata));
                all.look(&on_pod);
            }
        });

        let own: Api<KubeVirt> = Api::namespaced(client.clone(), &scope.namespace);
        let (on_installation, all) = (queues.clone(), cache.clone());
        spawn(shutdown, own, everything(), installations_writer, move |_| {
            on_installation.limits_changed(all.migrations.state().iter().map(|migration| &**migration));
        });

        // A node is written often. Only whether it is heard, and its end, are news to its instances.
        let (on_node, all) = (queues.clone(), cache.clone());
        let heard = Mutex::new(BTreeMap::new());
        spawn(
            shutdown,
            Api::all(client.clone()),
            everything(),
            nodes_writer,
            move |change: Change<'_, Node>| {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                let changed = match change {
                    Change::Seen(node) => {
                        all.heartbeats.seen(node, crate::now());
                        let silent = gate::not_ready_since(node).is_some();
                        let name = node.metadata.name.clone().unwrap_or_default();
                        (heard.insert(name.clone(), silent) != Some(silent)).then_some(name)
                    }
                    Change::Gone(node) => {
                        let name = node.metadata.name.clone().unwrap_or_default();
                        heard.remove(&name);
                        all.heartbeats.gone(&name);
                        Some(name)
                    }
                    Change::Listed => {
                        drop(heard);
                        for node in all.nodes.state() {
                            all.heartbeats.seen(&node, crate::now());
                        }
                        return all.look(&on_node);
                    }
                };
                if let Some(node) = changed {
                    let vmis = all.vmis.state();
                    on_node.node_changed(&node, vmis.iter().map(|vmi| &**vmi));
                }
            },
        );

        let (on_migration, all) = (queues.clone(), cache.clone());
        spawn(
            shutdown,
            Api::all(client.clone()),
            everything(),
            migrations_writer,
            move |change: Change<'_, VirtualMachineInstanceMigration>| {
                let state = all.migrations.state();
                let others = || state.iter().map(|migration| &**migration);
                match change {
                    Change::Seen(migration) => on_migration.migration_changed(migration, false, others()),
                    Change::Gone(migration) => on_migration.migration_changed(migration, true, others()),
                    Change::Listed => all.look(&on_migration),
                }
                metrics::migrations(others());
            },
        );

        if scope.replica_sets {
            let (on_set, all) = (queues.clone(), cache.clone());
            spawn(
                shutdown,
                Api::all(client.clone()),
                everything(),
                sets_writer,
                move |change| match change {
                    Change::Seen(set) | Change::Gone(set) => on_set.set_changed(&set.metadata),
                    Change::Listed => all.look(&on_set),
                },
            );
        }
        cache
    }

    /// Asks for a look at an instance, at what owns it and at its migrations.
    fn vmi_changed(&self, queues: &Queues, vmi: &ObjectMeta) {
        queues.vmi_changed(vmi);
        queues.moves_changed(vmi, self.migrations.state().iter().map(|migration| &**migration));
    }

    /// Asks for a look at everything: after a new list, objects may have gone without a word.
    fn look(&self, queues: &Queues) {
        keys(&self.vms).into_iter().for_each(|key| queues.vms.add(key));
        keys(&self.vmis).into_iter().for_each(|key| queues.vmis.add(key));
        keys(&self.sets).into_iter().for_each(|key| queues.sets.add(key));
        keys(&self.migrations).into_iter().for_each(|key| queues.migrations.add(key));
    }

    /// Waits until everything that a leader needs has been listed once. Replica sets are not
    /// waited for: their kind may appear later.
    pub async fn filled(&self) -> Result<(), reflector::store::WriterDropped> {
        self.vms.wait_until_ready().await?;
        self.vmis.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.migrations.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.installations.wait_until_ready().await
    }
}

/// What a watch tells of.
enum Change<'a, K> {
    /// An object was made or changed.
    Seen(&'a K),
    /// An object is gone.
    Gone(&'a K),
    /// Everything was listed anew; objects may have gone unseen.
    Listed,
}

fn spawn<K>(
    shutdown: &Shutdown,
    api: Api<K>,
    config: watch::Config,
    writer: Writer<K>,
    on_change: impl Fn(Change<'_, K>) + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let stop = shutdown.token().clone();
    let stream = watch::watcher(api, config).backoff(WatchBackoff::default()).reflect(writer);
    shutdown.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => (),
            () = follow(stream, on_change) => (),
        }
    });
}

async fn follow<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    on_change: impl Fn(Change<'_, K>),
) {
    let mut stream = std::pin::pin!(stream);
    let mut failing = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                failing = false;
                match event {
                    Event::Apply(object) => on_change(Change::Seen(&object)),
                    Event::Delete(object) => on_change(Change::Gone(&object)),
                    Event::Init | Event::InitApply(_) => {}
                    Event::InitDone => on_change(Change::Listed),
                }
            }
            // A kind that doesn't exist yet fails every few seconds: say so once.
            Err(error) if failing => tracing::debug!(kind = %K::kind(&()), %error, "the watch still fails"),
            Err(error) => {
                failing = true;
                tracing::warn!(kind = %K::kind(&()), %error, "the watch fails, trying again");
            }
        }
    }
}

/// Between two tries to list or watch: 0.5 s, doubling to 4 s. Short, because a kind that an
/// update has just made should be served at once.
#[derive(Debug, Default)]
struct WatchBackoff {
    tries: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(500 << self.tries.min(3));
        self.tries += 1;
        Some(wait)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.tries = 0;
    }
}
