//! What this handler watches in the cluster: the VMIs and launcher pods of its node, and the
//! configuration. Each is one watch, kept as long as the process lives.

use std::hash::Hash;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use kubevirt_types::{KubeVirt, VirtualMachineInstance, labels};
use tokio::sync::{mpsc, watch};

use crate::vmi::decide::PodFacts;

/// Who should be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// This VMI.
    Vmi(ObjectRef<VirtualMachineInstance>),
    /// The VMI of this launcher pod.
    Pod(String),
}

/// The VMIs of this node.
#[derive(Clone)]
pub struct Vmis {
    /// The cache.
    pub store: Store<VirtualMachineInstance>,
}

impl Vmis {
    /// Watches the VMIs with this node's label.
    pub fn watch(client: Client, node: &str, wake: mpsc::UnboundedSender<Wake>) -> Self {
        let config = watcher::Config::default().labels(&format!("{}={node}", labels::NODE_NAME));
        let store = reflect(Api::all(client), config, move |vmi: &VirtualMachineInstance| {
            drop(wake.send(Wake::Vmi(ObjectRef::from_obj(vmi))));
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

/// Keeps a cache of what a watch sees and tells of each object in it.
fn reflect<K>(api: Api<K>, config: watcher::Config, told: impl Fn(&K) + Send + 'static) -> Store<K>
where
    K: Resource + Clone + std::fmt::Debug + Send + Sync + serde::de::DeserializeOwned + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Unpin + Send + Sync,
{
    let (store, writer) = reflector::store();
    let objects =
        watcher(api, config).default_backoff().modify(|object| object.meta_mut().managed_fields = None);
    let mut events = Box::pin(reflector::reflector(writer, objects));
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
