//! What every request of virt-api works with.

use kubevirt_types::Release;
use kubevirt_types::gate::{self, GateStatus};

use crate::cluster::Cluster;
use crate::handler::Handlers;
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
}
