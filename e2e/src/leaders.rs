//! Who leads, seen from outside: a watch of the leases of virt-operator and virt-controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, pin_mut};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::product::NAMESPACE;

/// The leases that are watched.
pub const LEASES: [&str; 2] = ["virt-controller", "virt-operator"];

/// One lease and the time without a leader that its holders' own words tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reign {
    holder: Option<String>,
    /// When the last holder said last that it leads, or gave it back.
    until: Option<Timestamp>,
    /// How often another took over.
    pub changes: u32,
    /// The longest time between two reigns.
    pub longest_gap: SignedDuration,
}

impl Reign {
    fn see(&mut self, lease: &Lease) {
        let spec = lease.spec.clone().unwrap_or_default();
        let renewed = spec.renew_time.map(|time| time.0);
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        if let (Some(now), Some(until)) = (&holder, self.until)
            && self.holder.as_ref() != Some(now)
            && let Some(acquired) = spec.acquire_time.map(|time| time.0)
        {
            self.changes += 1;
            self.longest_gap = self.longest_gap.max(acquired.duration_since(until));
        }
        // A lease that is given back is without a holder, and says when.
        if holder.is_some() {
            self.holder.clone_from(&holder);
        }
        self.until = renewed.or(self.until);
    }
}

/// Watches until it is stopped.
pub struct Leaders {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    reigns: Arc<Mutex<BTreeMap<String, Reign>>>,
}

impl Leaders {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let reigns = Arc::default();
        let task = tokio::spawn(follow(client.clone(), Arc::clone(&reigns), stopped));
        Self { stop, task, reigns }
    }

    /// Ends it and returns each lease's story.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<BTreeMap<String, Reign>> {
        self.stop.send_replace(true);
        self.task.await?;
        let mut reigns = self.reigns.lock().expect("the watch doesn't panic while it writes");
        Ok(std::mem::take(&mut reigns))
    }
}

async fn follow(
    client: Client,
    reigns: Arc<Mutex<BTreeMap<String, Reign>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let events = watcher(leases, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stopped.changed() => return,
        };
        match event {
            Some(Ok(Event::Apply(lease) | Event::InitApply(lease))) => {
                let name = lease.name_any();
                if LEASES.contains(&name.as_str()) {
                    reigns.lock().expect("nobody panics while reading").entry(name).or_default().see(&lease);
                }
            }
            Some(Ok(Event::Delete(_) | Event::Init | Event::InitDone) | Err(_)) => {}
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(holder: &str, acquired: i64, renewed: i64) -> Lease {
        let at = |ms| Some(MicroTime(Timestamp::from_millisecond(ms).unwrap()));
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            acquire_time: at(acquired),
            renew_time: at(renewed),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn the_gap_is_from_the_last_word_of_one_to_the_first_of_the_next() {
        let mut reign = Reign::default();
        for (holder, acquired, renewed) in [("a", 0, 0), ("a", 0, 2000), ("", 2500, 2500), ("b", 2600, 2600)]
        {
            reign.see(&lease(holder, acquired, renewed));
        }
        assert_eq!((reign.changes, reign.longest_gap), (1, SignedDuration::from_millis(100)));
        reign.see(&lease("c", 19_000, 19_000));
        assert_eq!((reign.changes, reign.longest_gap), (2, SignedDuration::from_millis(16_400)));
    }
}
