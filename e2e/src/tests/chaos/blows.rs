//! What happens in the middle of an update that nobody asked for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use kubevirt_types::Release;

use super::rotation;
use crate::node::{Node, Signal};
use crate::product::{Product, UPDATE_LIMIT, is_of};
use crate::vm::schedulable_nodes;
use crate::wait::{self, Look};

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_secs(5);
/// How long a worker's network is away.
const CUT: Duration = Duration::from_secs(20);
/// The components of which one is killed.
const COMPONENTS: [&str; 4] = ["virt-operator", "virt-handler", "virt-controller", "virt-api"];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    None,
    /// SIGKILL for a component's pod, which then is gone; another every few seconds.
    Kills,
    /// kube-apiserver is killed, and its kubelet starts it again.
    ApiServer,
    /// A worker hears and says nothing for 20 s.
    Network,
    /// A new CA, and leaves of it.
    Rotation,
    /// The kubelet of a worker is restarted.
    Kubelet,
}

impl Blow {
    /// Strikes once a new virt-handler is there, and goes on as long as it takes; returns what it did.
    pub async fn strike(
        self,
        product: &Product,
        to: &Release,
        over: impl Fn() -> bool,
    ) -> anyhow::Result<String> {
        if self == Self::None {
            return Ok(String::new());
        }
        wait::until(format!("a virt-handler of {to}"), UPDATE_LIMIT, async || {
            let pods = product.pods("virt-handler").await?;
            wait::when(pods.iter().any(|pod| is_of(pod, to)), "none yet")
        })
        .await?;
        let worker = async || -> anyhow::Result<Node> {
            let nodes = schedulable_nodes(&product.cluster).await?;
            Ok(Node(nodes.into_iter().next().context("no worker")?))
        };
        match self {
            Self::None => Ok(String::new()),
            Self::Kills => kills(product, over).await,
            Self::ApiServer => {
                let node = control_plane(product).await?;
                node.kill("kube-apiserver").await?;
                Ok(format!("kube-apiserver of {} killed", node.0))
            }
            Self::Network => {
                let node = worker().await?;
                node.isolate().await?;
                tokio::time::sleep(CUT).await;
                node.rejoin().await?;
                Ok(format!("{} cut off for {} s", node.0, CUT.as_secs()))
            }
            Self::Rotation => rotation::rotate(product, "150h0m0s", "23h0m0s").await,
            Self::Kubelet => {
                let node = worker().await?;
                node.stop_kubelet().await?;
                node.start_kubelet().await?;
                Ok(format!("kubelet of {} restarted", node.0))
            }
        }
    }
}

async fn kills(product: &Product, over: impl Fn() -> bool) -> anyhow::Result<String> {
    let mut killed = Vec::new();
    while !over() {
        let begun = Instant::now();
        // Whoever it hits: a clock's last digits are random enough.
        let dice = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() as usize / 1000;
        let component = COMPONENTS[dice % COMPONENTS.len()];
        let pods = product.pods(component).await?;
        if let Some(pod) = pods.get(dice / COMPONENTS.len() % pods.len().max(1)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            // A pod that has no process just now can't be killed; the next one can.
            match Node(node).signal(&pod.name_any(), Signal::Kill).await {
                Ok(()) => killed.push(component),
                Err(error) => println!("    {error:#}"),
            }
            // The kubelet would start it again after a back-off that grows with each kill: another pod takes its place.
            let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            match product.all_pods().delete(&pod.name_any(), &at_once).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        tokio::time::sleep(KILL_EVERY.saturating_sub(begun.elapsed())).await;
    }
    ensure!(!killed.is_empty(), "nobody was killed");
    Ok(format!("{} killed: {}", killed.len(), killed.join(", ")))
}

/// The node that runs the API server.
async fn control_plane(product: &Product) -> anyhow::Result<Node> {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(product.cluster.client.clone());
    let label = kube::api::ListParams::default().labels("node-role.kubernetes.io/control-plane");
    wait::until("the control plane's node", Duration::from_secs(30), async || {
        let node = nodes.list(&label).await?.items.into_iter().next();
        Ok(node.map_or(Look::NotYet("none".into()), |node| Look::Done(Node(node.name_any()))))
    })
    .await
}
