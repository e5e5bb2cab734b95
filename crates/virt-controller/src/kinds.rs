//! Where each kind's inputs come from: the caches, or the API server itself when a decision
//! must be confirmed. Reads only.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kubevirt_types::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceReplicaSet, labels,
};
use serde_json::Value;

use crate::act::Subject;
use crate::cache;
use crate::children::Key;
use crate::controller::{Context, Kind};
use crate::decision::Decision;
use crate::migration::turn::Other;
use crate::queues::{instance_of, moves};
use crate::settings::{Settings, settings};
use crate::{migration, owner, replicaset, vm, vmi};

/// VirtualMachines.
pub struct Vms;
/// VirtualMachineInstances.
pub struct Vmis;
/// VirtualMachineInstanceReplicaSets.
pub struct Sets;
/// VirtualMachineInstanceMigrations.
pub struct Migrations;

impl Context {
    fn settings(&self) -> Settings {
        settings(&self.launcher_image, &self.cache.installations.state())
    }

    fn api<K>(&self, key: &Key) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.writer.client.clone(), &key.namespace)
    }

    /// The launcher pods of an instance, as the API server says.
    async fn live_pods(&self, key: &Key, uid: &str) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let selector = format!("{}={uid}", labels::CREATED_BY);
        let pods = self.api::<Pod>(key).list(&ListParams::default().labels(&selector)).await?;
        Ok(pods.items.into_iter().map(Arc::new).collect())
    }

    fn cached_pods(&self, uid: &str) -> Vec<Arc<Pod>> {
        let cache = &self.cache;
        cache.launchers.of(uid).iter().filter_map(|key| cache::get(&cache.pods, key)).collect()
    }

    /// Migrations with what limits need to know of them. Of other instances and pods the cache has
    /// to do: it can only be late in what doesn't depend on it.
    fn others(&self, all: Vec<Arc<VirtualMachineInstanceMigration>>) -> Vec<Other> {
        let pods = self.cache.pods.state();
        let with_pod: HashSet<&str> = pods.iter().filter_map(|pod| vmi::pods::migration_of(pod)).collect();
        let node = |migration: &VirtualMachineInstanceMigration| {
            let vmi = cache::get(&self.cache.vmis, &instance_of(migration))?;
            migration::source_node(migration, vmi.status.as_ref()?).map(str::to_owned)
        };
        all.into_iter()
            .map(|migration| Other {
                source_node: Some(&migration).filter(|m| !m.phase().is_final()).and_then(|m| node(m)),
                has_pod: with_pod.contains(migration.uid()),
                migration,
            })
            .collect()
    }
}

impl Subject for VirtualMachine {
    fn on_failure(&self, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
        vm::on_failure(self, reason, message, now)
    }
}

impl Subject for VirtualMachineInstance {
    fn on_failure(&self, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
        vmi::on_failure(self, reason, message, now)
    }
}

impl Subject for VirtualMachineInstanceReplicaSet {
    fn on_failure(&self, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
        replicaset::on_failure(self, reason, message, now)
    }
}

impl Subject for VirtualMachineInstanceMigration {
    fn on_failure(&self, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
        migration::on_failure(self, reason, message, now)
    }
}

impl Kind for Vms {
    type Subject = VirtualMachine;
    type Inputs = vm::Inputs;

    fn cached(context: &Context, key: &Key) -> Option<vm::Inputs> {
        let vm = cache::get(&context.cache.vms, key)?;
        let vmi = cache::get(&context.cache.vmis, key);
        Some(vm::Inputs { vm, vmi, machine_type: context.settings().machine_type })
    }

    /// The VM first: a request in it is about an instance that is older than it.
    async fn live(context: &Context, key: &Key) -> Result<Option<vm::Inputs>, kube::Error> {
        let Some(vm) = context.api::<VirtualMachine>(key).get_opt(&key.name).await? else { return Ok(None) };
        let vmi = context.api::<VirtualMachineInstance>(key).get_opt(&key.name).await?;
        let machine_type = context.settings().machine_type;
        Ok(Some(vm::Inputs { vm: Arc::new(vm), vmi: vmi.map(Arc::new), machine_type }))
    }

    fn subject(inputs: &vm::Inputs) -> Arc<VirtualMachine> {
        inputs.vm.clone()
    }

    fn decide(inputs: &vm::Inputs, now: Timestamp) -> Decision {
        vm::decide(inputs, now)
    }
}

/// The uid and key of the VM that controls an instance.
fn vm_of(vmi: &VirtualMachineInstance) -> Option<(String, Key)> {
    let key = Key::of_controller(&vmi.metadata, "VirtualMachine")?;
    owner::controller_of(&vmi.metadata).map(|owner| (owner.uid.clone(), key))
}

/// The node that has an instance's guest.
fn node_of(vmi: &VirtualMachineInstance) -> Option<&str> {
    vmi.status.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

impl Kind for Vmis {
    type Subject = VirtualMachineInstance;
    type Inputs = vmi::Inputs;

    fn cached(context: &Context, key: &Key) -> Option<vmi::Inputs> {
        let cache = &context.cache;
        let vmi = cache::get(&cache.vmis, key)?;
        let pods = context.cached_pods(vmi.uid());
        let migrations =
            cache.migrations.state().into_iter().filter(|migration| moves(migration, key)).collect();
        let owner = match vm_of(&vmi) {
            None => vmi::Owner::None,
            Some((uid, key)) => match cache::get(&cache.vms, &key) {
                Some(vm) if vm.uid() == uid => vmi::Owner::Alive,
                Some(_) | None => vmi::Owner::Gone,
            },
        };
        let name = node_of(&vmi);
        let found = name.and_then(|name| cache.nodes.get(&ObjectRef::new(name)));
        let node = cache.heartbeats.node(name, found.as_deref(), crate::now());
        Some(vmi::Inputs { vmi, pods, owner, migrations, node, launcher: context.settings().launcher })
    }

    /// The instance first: a phase in it tells of pods that are older than it.
    async fn live(context: &Context, key: &Key) -> Result<Option<vmi::Inputs>, kube::Error> {
        let found = context.api::<VirtualMachineInstance>(key).get_opt(&key.name).await?;
        let Some(vmi) = found.map(Arc::new) else { return Ok(None) };
        let pods = context.live_pods(key, vmi.uid()).await?;
        let migrations = context.api::<VirtualMachineInstanceMigration>(key);
        let migrations = migrations.list(&ListParams::default()).await?.items.into_iter().map(Arc::new);
        let migrations = migrations.filter(|migration| moves(migration, key)).collect();
        let owner = match vm_of(&vmi) {
            None => vmi::Owner::None,
            Some((uid, key)) => match context.api::<VirtualMachine>(&key).get_opt(&key.name).await? {
                Some(vm) if vm.uid() == uid => vmi::Owner::Alive,
                Some(_) | None => vmi::Owner::Gone,
            },
        };
        let name = node_of(&vmi);
        let found = match name {
            Some(name) => Api::<Node>::all(context.writer.client.clone()).get_opt(name).await?,
            None => None,
        };
        let node = context.cache.heartbeats.node(name, found.as_ref(), crate::now());
        Ok(Some(vmi::Inputs { vmi, pods, owner, migrations, node, launcher: context.settings().launcher }))
    }

    fn subject(inputs: &vmi::Inputs) -> Arc<VirtualMachineInstance> {
        inputs.vmi.clone()
    }

    fn decide(inputs: &vmi::Inputs, now: Timestamp) -> Decision {
        vmi::decide(inputs, now)
    }
}

impl Kind for Sets {
    type Subject = VirtualMachineInstanceReplicaSet;
    type Inputs = replicaset::Inputs;

    fn cached(context: &Context, key: &Key) -> Option<replicaset::Inputs> {
        let cache = &context.cache;
        let set = cache::get(&cache.sets, key)?;
        let vmis =
            cache.members.of(set.uid()).iter().filter_map(|key| cache::get(&cache.vmis, key)).collect();
        Some(replicaset::Inputs { set, vmis, machine_type: context.settings().machine_type })
    }

    async fn live(context: &Context, key: &Key) -> Result<Option<replicaset::Inputs>, kube::Error> {
        let found = context.api::<VirtualMachineInstanceReplicaSet>(key).get_opt(&key.name).await?;
        let Some(set) = found.map(Arc::new) else { return Ok(None) };
        let vmis = context.api::<VirtualMachineInstance>(key).list(&ListParams::default()).await?;
        let vmis = vmis.items.into_iter().map(Arc::new).collect();
        Ok(Some(replicaset::Inputs { set, vmis, machine_type: context.settings().machine_type }))
    }

    fn subject(inputs: &replicaset::Inputs) -> Arc<VirtualMachineInstanceReplicaSet> {
        inputs.set.clone()
    }

    fn decide(inputs: &replicaset::Inputs, now: Timestamp) -> Decision {
        replicaset::decide(inputs, now)
    }
}

impl Kind for Migrations {
    type Subject = VirtualMachineInstanceMigration;
    type Inputs = migration::Inputs;

    fn cached(context: &Context, key: &Key) -> Option<migration::Inputs> {
        let cache = &context.cache;
        let migration = cache::get(&cache.migrations, key)?;
        let vmi = cache::get(&cache.vmis, &instance_of(&migration));
        let pods = vmi.as_ref().map_or_else(Vec::new, |vmi| context.cached_pods(vmi.uid()));
        let all = context.others(cache.migrations.state());
        let settings = context.settings();
        let (limits, launcher) = (settings.migrations, settings.launcher);
        Some(migration::Inputs { migration, vmi, pods, all, limits, launcher })
    }

    /// The migration first: a phase in it tells of a pod and an instance that are older than it.
    async fn live(context: &Context, key: &Key) -> Result<Option<migration::Inputs>, kube::Error> {
        let found = context.api::<VirtualMachineInstanceMigration>(key).get_opt(&key.name).await?;
        let Some(migration) = found.map(Arc::new) else { return Ok(None) };
        let name = &migration.spec.vmi_name;
        let vmi = match name.as_str() {
            "" => None,
            name => context.api::<VirtualMachineInstance>(key).get_opt(name).await?.map(Arc::new),
        };
        let pods = match &vmi {
            Some(vmi) => context.live_pods(key, vmi.uid()).await?,
            None => vec![],
        };
        let everywhere: Api<VirtualMachineInstanceMigration> = Api::all(context.writer.client.clone());
        let all = everywhere.list(&ListParams::default()).await?.items.into_iter().map(Arc::new).collect();
        let all = context.others(all);
        let settings = context.settings();
        let (limits, launcher) = (settings.migrations, settings.launcher);
        Ok(Some(migration::Inputs { migration, vmi, pods, all, limits, launcher }))
    }

    fn subject(inputs: &migration::Inputs) -> Arc<VirtualMachineInstanceMigration> {
        inputs.migration.clone()
    }

    fn decide(inputs: &migration::Inputs, now: Timestamp) -> Decision {
        migration::decide(inputs, now)
    }
}
