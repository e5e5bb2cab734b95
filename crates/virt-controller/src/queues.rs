//! Which keys are worth a look when something changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubevirt_types::labels;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, migration::MigrationPhase};

use crate::children::Key;
use crate::metrics::QueueMetrics;
use crate::migration::is_refused;
use crate::queue::Queue;

/// The four queues. Closed while this replica doesn't lead.
#[derive(Debug)]
pub struct Queues {
    /// Of VMs.
    pub vms: Queue<Key>,
    /// Of instances.
    pub vmis: Queue<Key>,
    /// Of replica sets.
    pub sets: Queue<Key>,
    /// Of migrations.
    pub migrations: Queue<Key>,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            vms: Queue::new(QueueMetrics::named("virt-controller-vm")),
            vmis: Queue::new(QueueMetrics::named("virt-controller-vmi")),
            sets: Queue::new(QueueMetrics::named("virt-controller-replicaset")),
            migrations: Queue::new(QueueMetrics::named("virt-controller-migration")),
        }
    }
}

impl Queues {
    /// A VM, or the instance that depends on its being there.
    pub fn vm_changed(&self, metadata: &ObjectMeta) {
        self.vms.add(Key::of(metadata));
        self.vmis.add(Key::of(metadata));
    }

    /// An instance, the VM of its name, whoever owns it, and the replica set that controls it.
    pub fn vmi_changed(&self, metadata: &ObjectMeta) {
        self.vmis.add(Key::of(metadata));
        self.vms.add(Key::of(metadata));
        if let Some(set) = Key::of_controller(metadata, "VirtualMachineInstanceReplicaSet") {
            self.sets.add(set);
        }
    }

    /// The instance of a launcher pod, and the migration that made the pod.
    pub fn pod_changed(&self, metadata: &ObjectMeta) {
        if let Some(vmi) = Key::of_controller(metadata, "VirtualMachineInstance") {
            self.vmis.add(vmi);
        }
        let migration = metadata.annotations.as_ref().and_then(|all| all.get(labels::MIGRATION_NAME));
        if let Some(name) = migration {
            let namespace = metadata.namespace.clone().unwrap_or_default();
            self.migrations.add(Key { namespace, name: name.clone() });
        }
    }

    /// The migrations of an instance that has changed.
    pub fn moves_changed<'a>(
        &self,
        vmi: &ObjectMeta,
        migrations: impl Iterator<Item = &'a VirtualMachineInstanceMigration>,
    ) {
        let key = Key::of(vmi);
        for migration in migrations.filter(|migration| moves(migration, &key)) {
            self.migrations.add(Key::of(&migration.metadata));
        }
    }

    /// A migration, and its instance. Where its place in the queue or among those that move gets
    /// free, all that wait, and where it is over, the others of its instance: one may be one too many.
    pub fn migration_changed<'a>(
        &self,
        changed: &VirtualMachineInstanceMigration,
        is_gone: bool,
        all: impl Iterator<Item = &'a VirtualMachineInstanceMigration>,
    ) {
        self.migrations.add(Key::of(&changed.metadata));
        let instance = instance_of(changed);
        if is_gone || changed.phase().is_final() || is_refused(changed) {
            let others =
                all.filter(|other| other.phase() == MigrationPhase::Pending || moves(other, &instance));
            others.for_each(|other| self.migrations.add(Key::of(&other.metadata)));
        }
        self.vmis.add(instance);
    }

    /// The instances on a node of which nothing is heard any more, or something again.
    pub fn node_changed<'a>(&self, node: &str, vmis: impl Iterator<Item = &'a VirtualMachineInstance>) {
        let on = |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(node)
        };
        vmis.filter(|vmi| on(vmi)).for_each(|vmi| self.vmis.add(Key::of(&vmi.metadata)));
    }

    /// The limits may have changed.
    pub fn limits_changed<'a>(&self, all: impl Iterator<Item = &'a VirtualMachineInstanceMigration>) {
        let waiting = all.filter(|migration| migration.phase() == MigrationPhase::Pending);
        waiting.for_each(|migration| self.migrations.add(Key::of(&migration.metadata)));
    }

    /// A replica set.
    pub fn set_changed(&self, metadata: &ObjectMeta) {
        self.sets.add(Key::of(metadata));
    }
}

/// The key of the instance that a migration moves.
pub fn instance_of(migration: &VirtualMachineInstanceMigration) -> Key {
    Key { namespace: migration.namespace().to_owned(), name: migration.spec.vmi_name.clone() }
}

/// Whether a migration moves the instance of this key.
pub fn moves(migration: &VirtualMachineInstanceMigration, instance: &Key) -> bool {
    migration.spec.vmi_name == instance.name && migration.namespace() == instance.namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use serde_json::json;

    fn migration(name: &str, instance: &str, phase: &str) -> VirtualMachineInstanceMigration {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"vmiName": instance},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn woken(queue: &Queue<Key>) -> Vec<String> {
        std::iter::from_fn(|| queue.next().now_or_never()).map(|key| key.name).collect()
    }

    #[test]
    fn who_is_woken() {
        let all = [
            migration("own", "vm1", "Running"),
            migration("old", "vm1", "Succeeded"),
            migration("waits", "vm2", "Pending"),
            migration("moves", "vm3", "Running"),
        ];
        let queues = Queues::default();
        queues.migrations.open([]);
        queues.vmis.open([]);
        queues.migration_changed(&all[0], false, all.iter());
        assert_eq!(woken(&queues.migrations), ["own"]);
        assert_eq!(woken(&queues.vmis), ["vm1"]);

        // A place is free, and one of those that are kept may be too many.
        for (changed, gone) in [(migration("own", "vm1", "Failed"), false), (all[0].clone(), true)] {
            queues.migrations.open([]);
            queues.migration_changed(&changed, gone, all.iter());
            assert_eq!(woken(&queues.migrations), ["own", "old", "waits"]);
        }

        queues.migrations.open([]);
        queues.limits_changed(all.iter());
        assert_eq!(woken(&queues.migrations), ["waits"]);

        queues.migrations.open([]);
        let vmi =
            ObjectMeta { name: Some("vm1".into()), namespace: Some("ns".into()), ..ObjectMeta::default() };
        queues.moves_changed(&vmi, all.iter());
        assert_eq!(woken(&queues.migrations), ["own", "old"]);

        queues.migrations.open([]);
        let pod: ObjectMeta = serde_json::from_value(
            json!({"name": "p", "namespace": "ns", "annotations": {labels::MIGRATION_NAME: "own"}}),
        )
        .unwrap();
        queues.pod_changed(&pod);
        assert_eq!(woken(&queues.migrations), ["own"]);
    }
}
