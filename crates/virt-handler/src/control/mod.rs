//! Control of the VMIs of this node, while this handler holds the node's lock.
//!
//! Carries out what `vmi::decide` says; decides nothing itself.

mod reconcile;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use kube::Client;
use kube::runtime::controller::{self, Error, applier};
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{mpsc, watch};

use crate::cluster::{Pods, Vmis, Wake};
use crate::launcher::link::Links;
use crate::vmi::decide::Memory;

/// VMIs that are worked on at the same time: a launcher may take 20 s to answer.
const CONCURRENCY: u16 = 16;

/// What control needs.
pub struct Control {
    /// The cluster.
    pub client: Client,
    /// This node.
    pub node: String,
    /// Its VMIs.
    pub vmis: Vmis,
    /// Their launcher pods.
    pub pods: Pods,
    /// Their launchers.
    pub links: Links,
    /// Whether guests may run without KVM.
    pub use_emulation: watch::Receiver<Option<bool>>,
    /// What people are told, and by whom.
    pub recorder: Recorder,
    memory: Mutex<BTreeMap<String, Memory>>,
}

impl Control {
    /// Control of the VMIs of `node`, by the handler in `pod`.
    pub fn new(
        client: Client,
        node: &str,
        pod: &str,
        (vmis, pods, links): (Vmis, Pods, Links),
        use_emulation: watch::Receiver<Option<bool>>,
    ) -> Self {
        let reporter = Reporter { controller: "virt-handler".into(), instance: Some(pod.to_owned()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            node: node.to_owned(),
            vmis,
            pods,
            links,
            use_emulation,
            memory: Mutex::default(),
        }
    }

    /// Acts until it is dropped. Everything is looked at once, then what `wakes` names.
    pub async fn run(self: Arc<Self>, wakes: &mut mpsc::UnboundedReceiver<Wake>) {
        let all: Vec<_> = self
            .vmis
            .store
            .state()
            .iter()
            .map(|vmi| Wake::Vmi(kube::runtime::reflector::ObjectRef::from_obj(vmi.as_ref())))
            .collect();
        let (vmis, pods) = (self.vmis.clone(), self.pods.clone());
        let later = stream::poll_fn(|cx| wakes.poll_recv(cx));
        let queue = stream::iter(all).chain(later).filter_map(move |wake| {
            let found = match wake {
                Wake::Vmi(reference) => Some(reference),
                // A migration's target may not be in the VMI's status yet.
                Wake::Pod(uid) => vmis.of_pod(&uid).or_else(|| vmis.of_uid(&pods.made_for(&uid)?)),
            };
            std::future::ready(found.map(Ok::<_, std::convert::Infallible>))
        });
        let config = controller::Config::default().concurrency(CONCURRENCY);
        let store = self.vmis.store.clone();
        let outcomes = applier(
            |vmi, control| Box::pin(reconcile::reconcile(vmi, control)),
            reconcile::after_error,
            self.clone(),
            store,
            Box::pin(queue),
            config,
        );
        outcomes.for_each(|outcome| self.after(outcome.err())).await;
    }

    async fn after<Q: std::error::Error>(&self, error: Option<Error<reconcile::ReconcileError, Q>>) {
        match error {
            None | Some(Error::ReconcilerFailed(..)) => {}
            Some(Error::ObjectNotFound(reference)) => {
                tracing::debug!(vmi = %reference, "gone, or somebody else's now");
                self.forget();
            }
            Some(error) => tracing::warn!(%error, "control"),
        }
    }

    /// Forgets VMIs that this node no longer has.
    fn forget(&self) {
        let here = self.vmis.store.state();
        self.links.retain(|uid| {
            here.iter()
                .any(|vmi| vmi.status.as_ref().is_some_and(|status| status.active_pods.contains_key(uid)))
        });
        self.memory().retain(|uid, _| here.iter().any(|vmi| vmi.uid() == uid));
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
