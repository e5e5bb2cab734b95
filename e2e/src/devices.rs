//! What nodes offer to launcher pods, seen from outside: a watch of the nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};

use crate::following::Following;

/// How the names of our devices begin.
const OURS: &str = "devices.kubevirt.io/";

/// Watches until it is finished.
pub struct Devices(Following<Vec<String>>);

impl Devices {
    /// Starts to watch nodes that offer some.
    pub fn start(client: &Client, nodes: &[String]) -> Self {
        let names = nodes.to_vec();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let nodes: Api<Node> = Api::all(client.clone());
        Self(Following::start(nodes, move |missing: &mut Vec<String>, event| {
            let (Event::Apply(node) | Event::InitApply(node)) = event else { return };
            if !names.contains(&node.name_any()) {
                return;
            }
            let offered = offered(&node);
            known.extend(offered.iter().cloned());
            let lacks: Vec<&str> = known.difference(&offered).map(String::as_str).collect();
            if offered.is_empty() || !lacks.is_empty() {
                missing.push(format!(
                    "{}: {} offers no {}",
                    Timestamp::now(),
                    node.name_any(),
                    lacks.join(", ")
                ));
            }
        }))
    }

    /// Ends it and returns each moment in which a node offered none of a device, or not all devices.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Vec<String>> {
        self.0.finish().await
    }
}

/// The devices that a node can give away.
fn offered(node: &Node) -> BTreeSet<String> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
    allocatable
        .into_iter()
        .filter(|(name, quantity)| name.starts_with(OURS) && quantity.0 != "0")
        .map(|(name, _)| name)
        .collect()
}
