//! Writes the node's label, heartbeat and the name of the pod in charge while this handler holds the node's lock.
//!
//! At the end it writes nothing: the heartbeat's age tells the truth, and a successor may be
//! there already.

use std::time::Duration;

use futures::future::select_all;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::ability::{self, Ability, ability};
use crate::device::kind::{DeviceKind, PluginState, Reason};
use crate::device::register::Handle;

/// A heartbeat that the API server doesn't take in this time is tried again.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What the heartbeat is made from.
#[derive(Clone)]
pub struct Facts {
    /// Whether guests may run without KVM.
    pub use_emulation: watch::Receiver<Option<bool>>,
    /// The device plugins, KVM's first.
    pub plugins: Vec<(DeviceKind, Handle)>,
}

impl Facts {
    /// Whether this node can run VMs now.
    pub fn ability(&self) -> Ability {
        let kvm = self.plugins.first().map_or(PluginState::Starting, |(_, kvm)| *kvm.state.borrow());
        ability(*self.use_emulation.borrow(), kvm)
    }

    /// Waits until it is known whether this node can run VMs.
    pub async fn known(&mut self) {
        while self.ability() == Ability::Unknown {
            self.changed().await;
        }
    }

    /// Waits until something changes.
    async fn changed(&mut self) {
        let Self { use_emulation, plugins } = self;
        let plugins = select_all(plugins.iter_mut().map(|(_, handle)| Box::pin(handle.state.changed())));
        // Senders live as long as the process.
        tokio::select! {
            _ = use_emulation.changed() => {}
            _ = plugins => {}
        }
    }
}

/// Keeps the heartbeat of `node` going, in the name of this handler's `pod`. `written` is told once the node says what is so.
pub async fn keep(client: Client, node: &str, pod: &str, mut facts: Facts, written: impl Fn()) {
    let nodes: Api<Node> = Api::all(client);
    let start = Instant::now();
    loop {
        let ability = facts.ability();
        let now = jiff::Timestamp::now();
        let patch = Patch::Merge(ability::heartbeat(ability, pod, now));
        let pause = match timeout(LIMIT, nodes.patch(node, &PatchParams::default(), &patch)).await {
            Ok(Ok(said)) => {
                if ability != Ability::Unknown {
                    written();
                }
                correct(&said, &facts.plugins);
                // The predecessor's last word may have been on its way while this one was written, no longer
                // than `LIMIT`: said once more after that, it can't stand.
                let early = start.elapsed() < LIMIT;
                if early { LIMIT } else { ability::wait(now.subsec_nanosecond().unsigned_abs()) }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "can't write the heartbeat");
                RETRY
            }
            Err(_) => {
                tracing::warn!("writing the heartbeat took too long");
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = facts.changed() => {}
        }
    }
}

/// Makes plugins register again that the node has lost.
fn correct(node: &Node, plugins: &[(DeviceKind, Handle)]) {
    for (kind, handle) in plugins {
        if *handle.state.borrow() == PluginState::Registered && has_none(node, kind) {
            drop(handle.again.send(Reason::NodeSaysNone));
        }
    }
}

/// Whether a node says that it has lost all devices of a kind that it had. A node that has not
/// heard of them yet says nothing.
fn has_none(node: &Node, kind: &DeviceKind) -> bool {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    allocatable.and_then(|all| all.get(kind.resource)).is_some_and(|quantity| quantity.0 == "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::kind::{KVM, TUN};

    #[test]
    fn only_a_spoken_zero_is_a_loss() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n"},
            "status": {"allocatable": {"devices.kubevirt.io/kvm": "0", "cpu": "2"}},
        }))
        .unwrap();
        assert!(has_none(&node, &KVM));
        assert!(!has_none(&node, &TUN));
        assert!(!has_none(&Node::default(), &KVM));
    }
}
