//! Leader election over a Lease, with client-go's rules.
//!
//! It sees to it that at most one replica acts: a leader that can't renew stops before its lease
//! is up, one that was frozen can find out before each write ([`Term::check`]), and one that is told to
//! stop gives the lease back when its work has ended. What the leader does is not its business.

mod decision;
mod elector;
#[cfg(test)]
mod model;
mod term;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kube::Client;
use prometheus::IntGauge;

use crate::shutdown::Shutdown;

pub use decision::{Decision, Observation, evaluate};
use elector::{Elector, Ended};
pub use term::{Term, TermOver};

/// How long a lease holds and how often it is renewed; client-go's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Nobody else takes the lease for so long after a renewal.
    pub duration: Duration,
    /// A leader that couldn't renew for so long stops.
    pub renew_deadline: Duration,
    /// Time between two renewals.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Which lease, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The lease's name; also the component's, in the metric `kubevirt_<name>_leading_status`.
    pub name: String,
    #[allow(missing_docs)]
    pub namespace: String,
    /// Who we are: the pod's name.
    pub identity: String,
    #[allow(missing_docs)]
    pub timing: Timing,
}

impl LeaseConfig {
    /// With the default times.
    pub fn new(name: impl Into<String>, namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            identity: identity.into(),
            timing: Timing::default(),
        }
    }
}

/// The process must end now: another leader may start.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The leader's work ignored its token.
    #[error("lease {namespace}/{name} is lost and the leader's work has not stopped")]
    StillWorking {
        #[allow(missing_docs)]
        namespace: String,
        #[allow(missing_docs)]
        name: String,
    },
}

/// Waits for the lease and runs `lead` while holding it.
///
/// `lead` gets its term, whose token is cancelled when it must stop: on shutdown, or when the lease couldn't
/// be renewed. It must then return promptly. On shutdown the lease is renewed until it has, and
/// then given back. After a loss we wait for the lease again, with caches warm. A shutdown while we wait gives
/// back what a write of ours that is on its way may take.
///
/// Returns what `lead` returned by itself or on shutdown; none when the shutdown came first. An error means
/// that the process must exit at once.
pub async fn run<F, Fut, T>(
    client: Client,
    config: LeaseConfig,
    shutdown: &Shutdown,
    mut lead: F,
) -> Result<Option<T>, LeaseError>
where
    F: FnMut(Term) -> Fut,
    Fut: Future<Output = T>,
{
    let status = leading_status(&config.name);
    let mut elector = Elector::new(client, config);
    loop {
        status.set(0);
        if !elector.acquire(shutdown.token()).await {
            return Ok(None);
        }
        status.set(1);
        let ended = elector.lead(shutdown.token(), &mut lead).await;
        status.set(0);
        match ended? {
            Ended::Done(result) => return Ok(Some(result)),
            Ended::Lost => continue,
        }
    }
}

fn leading_status(name: &str) -> IntGauge {
    let metric = format!("kubevirt_{}_leading_status", name.replace('-', "_"));
    let gauge = IntGauge::new(metric, "1 for the replica that leads, 0 for the others.")
        .expect("a lease's name with underscores is a metric's name");
    if let Err(error) = prometheus::register(Box::new(gauge.clone())) {
        tracing::debug!(%error, "the leading status is not exported");
    }
    gauge
}
