//! What nodes offer to launcher pods, seen from outside: a watch of the nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the names of our devices begin.
const OURS: &str = "devices.kubevirt.io/";

/// Watches until it is stopped.
pub struct Devices {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    missing: Arc<Mutex<Vec<String>>>,
}

impl Devices {
    /// Starts to watch nodes that offer some.
    pub fn start(client: &Client, nodes: &[String]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let missing = Arc::default();
        let task = tokio::spawn(follow(client.clone(), nodes.to_vec(), Arc::clone(&missing), stopped));
        Self { stop, task, missing }
    }

    /// Ends it and returns each moment in which a node offered none of a device, or not all devices.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Vec<String>> {
        self.stop.send_replace(true);
        self.task.await?;
        let mut missing = self.missing.lock().expect("the watch doesn't panic while it writes");
        Ok(std::mem::take(&mut missing))
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

async fn follow(
    client: Client,
    names: Vec<String>,
    missing: Arc<Mutex<Vec<String>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let nodes: Api<Node> = Api::all(client);
    let events = watcher(nodes, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut known: BTreeSet<String> = BTreeSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stopped.changed() => return,
        };
        match event {
            Some(Ok(Event::Apply(node) | Event::InitApply(node))) if names.contains(&node.name_any()) => {
                let offered = offered(&node);
                known.extend(offered.iter().cloned());
                let lacks: Vec<&str> = known.difference(&offered).map(String::as_str).collect();
                if offered.is_empty() || !lacks.is_empty() {
                    let moment =
                        format!("{}: {} offers no {}", Timestamp::now(), node.name_any(), lacks.join(", "));
                    missing.lock().expect("nobody panics while reading").push(moment);
                }
            }
            Some(Ok(_) | Err(_)) => {}
            None => return,
        }
    }
}
