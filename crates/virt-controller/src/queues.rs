//! Which keys are worth a look when something changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::children::Key;
use crate::metrics::QueueMetrics;
use crate::queue::Queue;

/// The three queues. Closed while this replica doesn't lead.
#[derive(Debug)]
pub struct Queues {
    /// Of VMs.
    pub vms: Queue<Key>,
    /// Of instances.
    pub vmis: Queue<Key>,
    /// Of replica sets.
    pub sets: Queue<Key>,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            vms: Queue::new(QueueMetrics::named("virt-controller-vm")),
            vmis: Queue::new(QueueMetrics::named("virt-controller-vmi")),
            sets: Queue::new(QueueMetrics::named("virt-controller-replicaset")),
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

    /// The instance of a launcher pod.
    pub fn pod_changed(&self, metadata: &ObjectMeta) {
        if let Some(vmi) = Key::of_controller(metadata, "VirtualMachineInstance") {
            self.vmis.add(vmi);
        }
    }

    /// A replica set.
    pub fn set_changed(&self, metadata: &ObjectMeta) {
        self.sets.add(Key::of(metadata));
    }
}
