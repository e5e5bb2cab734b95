//! What happens in the middle of an update that nobody asked for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kubevirt_types::Release;

use super::rotation;
use crate::node::{Node, Signal};
use crate::product::{Product, UPDATE_LIMIT, is_of, restarts};
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
    /// SIGKILL for a component's pod, which its kubelet starts again, or which is gone; another every few seconds.
    Kills,
    /// kube-apiserver is killed, and its kubelet starts it again.
    ApiServer,
    /// A worker hears and says nothing for 20 s.
    Network,
    /// A new CA, whose leaves come while the components are replaced.
    Rotation,
    /// The kubelet of a worker is restarted.
    Kubelet,
}

/// What was done.
pub struct Struck {
    pub what: String,
    /// When it has struck, where that isn't in the update anyway.
    pub at: Option<Timestamp>,
    /// The node whose kubelet was restarted, and when it was stopped.
    pub kubelet: Option<(String, Timestamp)>,
}

impl Blow {
    /// How long it has been going on when people go to work, which takes them half a minute, and the update begins: leaves of a new CA
    /// come when that has had its time to spread, which is longer than an update takes.
    pub fn head_start(self) -> Duration {
        match self {
            Self::Rotation => Duration::from_secs(80),
            Self::None | Self::Kills | Self::ApiServer | Self::Network | Self::Kubelet => Duration::ZERO,
        }
    }

    /// Strikes once a new virt-handler is there, or has done so before the update; goes on as long as it takes, and returns what it
    /// did.
    pub async fn strike(
        self,
        product: &Product,
        to: &Release,
        over: impl Fn() -> bool,
    ) -> anyhow::Result<Struck> {
        let what = match self {
            Self::None => String::new(),
            Self::Rotation => return rotation::rotate(product, "150h0m0s", "23h0m0s").await,
            Self::Kills => {
                in_the_middle(product, to).await?;
                kills(product, over).await?
            }
            Self::ApiServer => {
                in_the_middle(product, to).await?;
                let node = control_plane(product).await?;
                node.kill("kube-apiserver").await?;
                format!("kube-apiserver of {} killed", node.0)
            }
            Self::Network => {
                in_the_middle(product, to).await?;
                let node = worker(product).await?;
                node.isolate().await?;
                tokio::time::sleep(CUT).await;
                node.rejoin().await?;
                format!("{} cut off for {} s", node.0, CUT.as_secs())
            }
            Self::Kubelet => {
                in_the_middle(product, to).await?;
                let node = worker(product).await?;
                let stopped = Timestamp::now();
                node.stop_kubelet().await?;
                node.start_kubelet().await?;
                let what = format!("kubelet of {} restarted", node.0);
                return Ok(Struck { what, at: None, kubelet: Some((node.0, stopped)) });
            }
        };
        Ok(Struck { what, at: None, kubelet: None })
    }
}

/// Waits until a new virt-handler is there.
async fn in_the_middle(product: &Product, to: &Release) -> anyhow::Result<()> {
    wait::until(format!("a virt-handler of {to}"), UPDATE_LIMIT, async || {
        let pods = product.pods("virt-handler").await?;
        wait::when(pods.iter().any(|pod| is_of(pod, to)), "none yet")
    })
    .await
}

async fn worker(product: &Product) -> anyhow::Result<Node> {
    let nodes = schedulable_nodes(&product.cluster).await?;
    Ok(Node(nodes.into_iter().next().context("no worker")?))
}

async fn kills(product: &Product, over: impl Fn() -> bool) -> anyhow::Result<String> {
    let mut killed = Vec::new();
    while !over() {
        let begun = Instant::now();
        // Whoever it hits: a clock's last digits are random enough.
        let dice = Timestamp::now().subsec_nanosecond().unsigned_abs() as usize / 1000;
        let component = COMPONENTS[dice % COMPONENTS.len()];
        let pods = product.pods(component).await?;
        if let Some(pod) = pods.get(dice / COMPONENTS.len() % pods.len().max(1)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            // A pod that has no process just now can't be killed; the next one can.
            match Node(node).signal(&pod.name_any(), Signal::Kill).await {
                Ok(()) => killed.push(component),
                Err(error) => println!("    {error:#}"),
            }
            // The kubelet starts it again at once, but after a second kill only behind a back-off that grows: then another pod
            // takes its place.
            if restarts(pod) > 0 {
                let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                match product.all_pods().delete(&pod.name_any(), &at_once).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(error.into()),
                }
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
