//! What every request of virt-api works with.

use kubevirt_types::gate::{self, GateStatus};
use kubevirt_types::{Release, VirtualMachine, VirtualMachineInstance};

use crate::cluster::Cluster;
use crate::handler::Handlers;
use crate::refusal::{Refusal, Subject};
use crate::watch::View;

/// What every request works with.
pub struct App {
    /// The release of this virt-api.
    pub own: Release,
    /// The namespace that KubeVirt is installed in.
    pub namespace: String,
    /// The Kubernetes API.
    pub cluster: Cluster,
    /// What is watched of it.
    pub view: View,
    /// virt-handlers.
    pub handlers: Handlers,
}

impl App {
    /// The version gate as it stands.
    pub fn gate(&self) -> GateStatus {
        gate::status(&self.own, &self.view.floor())
    }

    /// The VM that a request is about.
    pub async fn vm(&self, namespace: &str, name: &str) -> Result<VirtualMachine, Refusal> {
        let vm = self.cluster.vm(namespace, name).await;
        let vm = vm.map_err(|error| Refusal::internal(error.to_string()))?;
        vm.ok_or_else(|| Refusal::not_found(Subject::vm(name)))
    }

    /// The instance that a request is about.
    pub async fn vmi(&self, namespace: &str, name: &str) -> Result<VirtualMachineInstance, Refusal> {
        let vmi = self.cluster.vmi(namespace, name).await;
        let vmi = vmi.map_err(|error| Refusal::internal(error.to_string()))?;
        vmi.ok_or_else(|| Refusal::not_found(Subject::vmi(name)))
    }
}
