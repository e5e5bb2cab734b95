//! Who leads, seen from outside: a watch of the leases of virt-operator and virt-controller.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};

use crate::following::Following;
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

/// Watches until it is finished.
pub struct Leaders(Following<BTreeMap<String, Reign>>);

impl Leaders {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        Self(Following::start(leases, |reigns: &mut BTreeMap<String, Reign>, event| {
            if let Event::Apply(lease) | Event::InitApply(lease) = event {
                let name = lease.name_any();
                if LEASES.contains(&name.as_str()) {
                    reigns.entry(name).or_default().see(&lease);
                }
            }
        }))
    }

    /// Ends it and returns each lease's story.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<BTreeMap<String, Reign>> {
        self.0.finish().await
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
