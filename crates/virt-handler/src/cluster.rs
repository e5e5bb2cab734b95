//! What this handler watches in the cluster: the VMIs and launcher pods of its node, and the
//! configuration. Each watch is kept as long as the process lives.

mod merged;

use std::hash::Hash;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use kubevirt_types::{KubeVirt, VirtualMachineInstance, labels};
use tokio::sync::{mpsc, watch};

use crate::vmi::decide::PodFacts;
use crate::vmi::owner;
use merged::{Merged, Side};

/// Who should be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// This VMI.
    Vmi(ObjectRef<VirtualMachineInstance>),
    /// The VMI of this launcher pod.
    Pod(String),
}

/// The VMIs that are on this node, or on their way to it.
#[derive(Clone)]
pub struct Vmis {
    /// The cache.
    pub store: Store<VirtualMachineInstance>,
}

impl Vmis {
    /// Watches the VMIs with one of this node's labels.
    pub fn watch(client: Client, node: &str, wake: mpsc::UnboundedSender<Wake>) -> Self {
        let seen = |label: &str, side| {
            let config = watcher::Config::default().labels(&format!("{label}={node}"));
            let events = objects(Api::<VirtualMachineInstance>::all(client.clone()), config);
            events.map(move |event| (side, event))
        };
        let here = seen(labels::NODE_NAME, Side::One);
        let coming = seen(labels::MIGRATION_TARGET_NODE, Side::Other);
        let mut merged = Merged::default();
        let store = merged.store();
        let mut events = Box::pin(stream::select(here, coming));
        tokio::spawn(async move {
            while let Some((side, event)) = events.next().await {
                match event {
                    Ok(event) => merged.apply(side, event).into_iter().for_each(|vmi| {
                        // A handler that drains listens no more.
                        drop(wake.send(Wake::Vmi(vmi)));
                    }),
                    Err(error) => tracing::warn!(%error, ?side, "watch of VirtualMachineInstances"),
                }
            }
        });
        Self { store }
    }

    /// The VMI of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<VirtualMachineInstance>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The VMI whose launcher this pod is.
    pub fn of_pod(&self, pod_uid: &str) -> Option<ObjectRef<VirtualMachineInstance>> {
        let has = |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().is_some_and(|status| status.active_pods.contains_key(pod_uid))
        };
        self.store.find(has).map(|vmi| ObjectRef::from_obj(vmi.as_ref()))
    }

    /// The VMI with this uid.
    pub fn of_uid(&self, uid: &str) -> Option<ObjectRef<VirtualMachineInstance>> {
        self.store.find(|vmi| vmi.uid() == uid).map(|vmi| ObjectRef::from_obj(vmi.as_ref()))
    }
}

/// The launcher pods of this node.
#[derive(Clone)]
pub struct Pods {
    /// The cache.
    pub store: Store<Pod>,
}

impl Pods {
    /// Watches the launcher pods of this node.
    pub fn watch(client: Client, node: &str, wake: mpsc::UnboundedSender<Wake>) -> Self {
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={node}"))
            .labels(&format!("{}=virt-launcher", labels::APP));
        let store = reflect(Api::all(client), config, move |pod: &Pod| {
            if let Some(uid) = &pod.metadata.uid {
                drop(wake.send(Wake::Pod(uid.clone())));
            }
        });
        Self { store }
    }

    /// The uid of the launcher pod that has a VMI's guest or gets it, if that is this node's part.
    pub fn launcher(&self, vmi: &VirtualMachineInstance, node: &str) -> Option<String> {
        owner::launcher(vmi, node, |name| {
            self.store.get(&ObjectRef::new(name).within(vmi.namespace()))?.metadata.uid.clone()
        })
    }

    /// The uid of the VMI that the pod with this uid was made for.
    pub fn made_for(&self, uid: &str) -> Option<String> {
        let pod = self.store.find(|pod| pod.metadata.uid.as_deref() == Some(uid))?;
        pod.metadata.labels.as_ref()?.get(labels::CREATED_BY).cloned()
    }

    /// What is known of the pod with this uid.
    pub fn facts(&self, uid: &str) -> Option<PodFacts> {
        self.store.find(|pod| pod.metadata.uid.as_deref() == Some(uid)).map(|pod| facts(&pod))
    }
}

fn facts(pod: &Pod) -> PodFacts {
    let status = pod.status.as_ref();
    let all = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.clone());
    let mut ips: Vec<String> = all.collect();
    if ips.is_empty() {
        ips.extend(status.and_then(|s| s.pod_ip.clone()));
    }
    PodFacts { ips, deleting: pod.metadata.deletion_timestamp.is_some() }
}

/// Whether guests may run without KVM: none until a KubeVirt object has been seen. When the
/// object goes, what it said last stands.
pub fn use_emulation(client: Client, namespace: &str) -> watch::Receiver<Option<bool>> {
    let (tell, told) = watch::channel(None);
    reflect(Api::namespaced(client, namespace), watcher::Config::default(), move |kubevirt: &KubeVirt| {
        let said = Some(kubevirt.spec.use_emulation());
        tell.send_if_modified(|known| std::mem::replace(known, said) != said);
    });
    told
}

/// What a watch sees.
fn objects<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + std::fmt::Debug + Send + Sync + serde::de::DeserializeOwned + 'static,
{
    watcher(api, config).default_backoff().modify(|object| object.meta_mut().managed_fields = None)
}

/// Keeps a cache of what a watch sees and tells of each object in it.
fn reflect<K>(api: Api<K>, config: watcher::Config, told: impl Fn(&K) + Send + 'static) -> Store<K>
where
    K: Resource + Clone + std::fmt::Debug + Send + Sync + serde::de::DeserializeOwned + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Unpin + Send + Sync,
{
    let (store, writer) = reflector::store();
    let mut events = Box::pin(reflector::reflector(writer, objects(api, config)));
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(o) | watcher::Event::InitApply(o) | watcher::Event::Delete(o)) => {
                    told(&o)
                }
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, kind = %K::kind(&K::DynamicType::default()), "watch"),
            }
        }
    });
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tells_its_addresses() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "deletionTimestamp": "2026-11-23T02:00:00Z"},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .unwrap();
        assert_eq!(facts(&pod), PodFacts { ips: vec!["10.0.0.1".into(), "fd00::1".into()], deleting: true });
    }
}
