//! Who has led since this process lives: watched by every replica, so that one that takes over knows who led before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use kubevirt_rollout::report::{Observation, Terms, UpdateReport};
use kubevirt_runtime::shutdown::Shutdown;

/// The Leases of those who lead.
const LEASES: [&str; 2] = ["virt-controller", "virt-operator"];

/// What each lease has said.
#[derive(Debug, Clone, Default)]
pub struct TermLog(Arc<Mutex<BTreeMap<&'static str, Terms>>>);

impl TermLog {
    /// Watches until the process ends.
    pub fn start(client: &Client, namespace: &str, shutdown: &Shutdown) -> Self {
        let log = Self::default();
        for name in LEASES {
            let watch = log.clone().watch(Api::namespaced(client.clone(), namespace), name);
            let stop = shutdown.token().clone();
            shutdown.spawn(async move { stop.run_until_cancelled(watch).await });
        }
        log
    }

    /// Folds all that is known into a report.
    pub fn fold_into(&self, report: &mut UpdateReport, now: jiff::Timestamp) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (lease, terms) in log.iter() {
            report.fold(&Observation::Terms(lease, terms.all()), now);
        }
    }

    async fn watch(self, api: Api<Lease>, name: &'static str) {
        let events = watcher::watch_object(api, name).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Some(lease)) => self.see(name, lease.spec.as_ref()),
                Ok(None) => {}
                Err(error) => tracing::debug!(lease = name, %error, "watching failed, trying again"),
            }
        }
    }

    fn see(&self, name: &'static str, spec: Option<&LeaseSpec>) {
        let Some(LeaseSpec {
            holder_identity, acquire_time: Some(acquired), renew_time: Some(renewed), ..
        }) = spec
        else {
            return;
        };
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let terms = log.entry(name).or_default();
        terms.see(holder_identity.as_deref().unwrap_or_default(), acquired.0, renewed.0);
    }
}
