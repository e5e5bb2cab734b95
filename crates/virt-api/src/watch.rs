//! What virt-api watches: who reports which release, where virt-handler runs, how guests are
//! configured, and how to know the front proxy.
//!
//! A view that isn't complete yet opens no gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeStatus, Pod};
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use kubevirt_runtime::health::Condition;
use kubevirt_runtime::tls::{ClientAuth, Peers, ServerTls};
use kubevirt_types::gate::{self, Floor, PodFacts, Report};
use kubevirt_types::{KubeVirt, labels};
use serde::de::DeserializeOwned;

use crate::access::FrontProxy;
use crate::admission::defaults::MACHINE_TYPE;
use crate::handler_pod::{self, HandlerPod};

const VIRT_CONTROLLER: &str = "virt-controller";
const VIRT_HANDLER: &str = "virt-handler";
/// The ConfigMap in which the API server describes its front proxy.
const AUTHENTICATION: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

/// What is watched. Clones share it.
#[derive(Clone)]
pub struct View {
    leases: Store<Lease>,
    pods: Store<Pod>,
    daemon_sets: Store<DaemonSet>,
    nodes: Store<Node>,
    kubevirts: Store<KubeVirt>,
    front_proxy: Arc<ArcSwapOption<FrontProxy>>,
    complete: Arc<AtomicBool>,
}

/// What is said about being ready.
pub struct Readiness {
    /// Everything has been read once.
    pub view: Condition,
    /// The front proxy can be told from others.
    pub front_proxy: Condition,
}

impl View {
    /// Starts watching, for as long as the process lives: streams are carried on after it was told to stop.
    pub fn start(client: &Client, namespace: &str, tls: ServerTls, ready: Readiness) -> Self {
        let components = format!("in ({VIRT_CONTROLLER},{VIRT_HANDLER})");
        let labelled = |key: &str| watcher::Config::default().labels(&format!("{key} {components}"));
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let all = watcher::Config::default;
        let nodes: Api<Node> = Api::all(client.clone());
        let view = Self {
            leases: follow(api(client, namespace), labelled(labels::REPORT_COMPONENT), trim),
            pods: follow(api(client, namespace), labelled(labels::APP), trim),
            daemon_sets: follow(api(client, namespace), named(VIRT_HANDLER), trim),
            nodes: follow(nodes, all(), |node| {
                trim(node);
                // Only labels, taints and readiness are looked at; images and conditions are most of a node.
                let conditions = node.status.take().and_then(|status| status.conditions);
                let ready = conditions.into_iter().flatten().filter(|condition| condition.type_ == "Ready");
                node.status = Some(NodeStatus { conditions: Some(ready.collect()), ..NodeStatus::default() });
            }),
            kubevirts: follow(api(client, namespace), all(), trim),
            front_proxy: Arc::default(),
            complete: Arc::default(),
        };
        follow_front_proxy(client, view.front_proxy.clone(), tls, ready.front_proxy);
        let (complete, stores) = (view.complete.clone(), view.clone());
        tokio::spawn(async move {
            if stores.filled().await.is_ok() {
                complete.store(true, Ordering::Release);
                ready.view.set(true);
                tracing::info!("caches are filled");
            }
        });
        view
    }

    async fn filled(&self) -> Result<(), reflector::store::WriterDropped> {
        self.leases.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.daemon_sets.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.kubevirts.wait_until_ready().await
    }

    /// The lowest release among the controllers that the cluster wants.
    pub fn floor(&self) -> Floor {
        if !self.complete.load(Ordering::Acquire) {
            return Floor::Unknown { silent: vec!["virt-api's own view of the cluster".to_owned()] };
        }
        let (leases, pods, nodes) = (self.leases.state(), self.pods.state(), self.nodes.state());
        let daemon_set = self.daemon_sets.state().into_iter().next();
        let of = |app: &str| -> Vec<&Pod> {
            pods.iter()
                .map(Arc::as_ref)
                .filter(|pod| pod.labels().get(labels::APP).is_some_and(|a| a == app))
                .collect()
        };
        let facts = |app: &str| -> Vec<PodFacts> { of(app).into_iter().map(PodFacts::from_pod).collect() };
        let nodes: Vec<Node> = nodes.iter().map(|node| node.as_ref().clone()).collect();
        let lost = gate::lost_nodes(&nodes, jiff::Timestamp::now());
        let wanted = daemon_set.map(|set| gate::wanted_nodes(&set, &nodes)).unwrap_or_default();
        let reports: Vec<Report> = leases.iter().filter_map(|lease| Report::from_lease(lease)).collect();
        gate::floor(&gate::reporters(&facts(VIRT_CONTROLLER), &facts(VIRT_HANDLER), &wanted, &lost, &reports))
    }

    /// The virt-handlers of a node, the best first.
    pub fn handlers(&self, node: &str) -> Vec<HandlerPod> {
        let is_handler = |pod: &Pod| pod.labels().get(labels::APP).is_some_and(|app| app == VIRT_HANDLER);
        let pods = self.pods.state_filter(is_handler);
        handler_pod::rank(pods.iter().map(Arc::as_ref), node)
    }

    /// Machine type of guests that name none.
    pub fn machine_type(&self) -> String {
        let configured = self.kubevirts.state().into_iter().find_map(|kubevirt| {
            kubevirt.spec.configuration.as_ref()?.machine_type.clone().filter(|machine| !machine.is_empty())
        });
        configured.unwrap_or_else(|| MACHINE_TYPE.to_owned())
    }

    /// The front proxy; none while nobody has described it.
    pub fn front_proxy(&self) -> Option<Arc<FrontProxy>> {
        self.front_proxy.load_full()
    }
}

fn api<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

/// Nobody reads who wrote which field.
fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn follow<K>(api: Api<K>, config: watcher::Config, trim: fn(&mut K)) -> Store<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()>,
    K: Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let events = watcher(api, config).default_backoff().modify(trim).reflect(writer);
    tokio::spawn(events.for_each(|event| async move {
        if let Err(error) = event {
            tracing::warn!(kind = %<K as Resource>::kind(&()), %error, "watching");
        }
    }));
    reader
}

/// Lets whom the ConfigMap names speak for others, from the moment it says so.
fn follow_front_proxy(
    client: &Client,
    current: Arc<ArcSwapOption<FrontProxy>>,
    tls: ServerTls,
    known: Condition,
) {
    let (namespace, name) = AUTHENTICATION;
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let maps = watcher(api::<ConfigMap>(client, namespace), config).default_backoff().applied_objects();
    tokio::spawn(async move {
        let mut maps = std::pin::pin!(maps);
        while let Some(map) = maps.next().await {
            let proxy = match map.map(|map| FrontProxy::parse(&map.data.unwrap_or_default())) {
                Ok(Ok(proxy)) => proxy,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the front proxy's description can't be used");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "watching the front proxy's description");
                    continue;
                }
            };
            let peers = Peers {
                ca_pem: proxy.ca_pem.clone().into_bytes(),
                common_names: proxy.allowed_names.clone(),
            };
            match tls.set_client_auth(ClientAuth::IfGiven(peers)) {
                Ok(()) => {
                    if current.load().as_deref() != Some(&proxy) {
                        tracing::info!(names = ?proxy.allowed_names, "front proxy known");
                        current.store(Some(Arc::new(proxy)));
                    }
                    known.set(true);
                }
                Err(error) => tracing::error!(%error, "the front proxy's CA can't be used"),
            }
        }
    });
}
