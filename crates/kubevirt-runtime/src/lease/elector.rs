//! The I/O of leader election: reads, guarded writes, and the race between work and renewal.

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::decision::{held, released};
use super::{Decision, LeaseConfig, LeaseError, Observation, evaluate};

/// How often a standby looks by itself: it bounds a hand-over where a watch is late.
const STANDBY_POLL: Duration = Duration::from_secs(1);
/// A call that takes longer is given up and tried again.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// How a term of leadership ended.
pub(super) enum Ended<T> {
    /// The work returned while the lease was ours.
    Done(T),
    /// The lease couldn't be kept; the work has stopped.
    Lost,
}

pub(super) struct Elector {
    api: Api<Lease>,
    config: LeaseConfig,
    observation: Observation,
    /// The lease as we last wrote it, while we hold it.
    held: Option<Lease>,
    /// When the request that renewed it was sent.
    renewed: Instant,
}

/// What one attempt came to.
enum Attempt {
    Held,
    HeldByOther(Duration),
    Conflict,
}

impl Elector {
    pub(super) fn new(client: Client, config: LeaseConfig) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        Self { api, config, observation: Observation::default(), held: None, renewed: Instant::now() }
    }

    /// Waits for the lease. False when told to stop before.
    pub(super) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut released = pin!(
            watcher::watch_object(self.api.clone(), &self.config.name)
                .default_backoff()
                .try_filter(|lease| futures::future::ready(lease.as_ref().is_none_or(is_free)))
        );
        loop {
            let attempt = tokio::select! {
                () = stop.cancelled() => return false,
                attempt = timeout(CALL_LIMIT, self.attempt()) => attempt,
            };
            let pause = match attempt {
                Ok(Ok(Attempt::Held)) => {
                    tracing::info!(lease = self.config.name, identity = self.config.identity, "leading");
                    return true;
                }
                Ok(Ok(Attempt::HeldByOther(left))) => left.min(STANDBY_POLL),
                Ok(Ok(Attempt::Conflict)) => STANDBY_POLL,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.config.name, %error, "can't get the lease");
                    STANDBY_POLL
                }
                Err(_) => STANDBY_POLL,
            };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep(pause) => (),
                Some(event) = released.next() => if let Err(error) = event {
                    tracing::debug!(lease = self.config.name, %error, "watching the lease");
                },
            }
        }
    }

    /// Runs the work while renewing. Gives the lease back when the work has ended.
    pub(super) async fn lead<F, Fut, T>(
        &mut self,
        stop: &CancellationToken,
        lead: &mut F,
    ) -> Result<Ended<T>, LeaseError>
    where
        F: FnMut(CancellationToken) -> Fut,
        Fut: Future<Output = T>,
    {
        let leading = CancellationToken::new();
        let mut work = pin!(lead(leading.clone()));
        // On shutdown the work winds down while the lease is still renewed.
        let done = {
            let mut keep = pin!(self.keep());
            tokio::select! {
                result = &mut work => Ok(result),
                until = &mut keep => Err(until),
                () = stop.cancelled() => {
                    leading.cancel();
                    tokio::select! {
                        result = &mut work => Ok(result),
                        until = &mut keep => Err(until),
                    }
                }
            }
        };
        let must_stop_by = match done {
            Ok(result) => {
                self.release().await;
                return Ok(Ended::Done(result));
            }
            Err(until) => until,
        };
        leading.cancel();
        self.held = None;
        tracing::error!(lease = self.config.name, "lost the lease, stopping the leader's work");
        match timeout_at(must_stop_by, &mut work).await {
            Ok(_) => {
                tracing::info!(lease = self.config.name, "the leader's work has stopped");
                Ok(Ended::Lost)
            }
            Err(_) => Err(LeaseError::StillWorking {
                namespace: self.config.namespace.clone(),
                name: self.config.name.clone(),
            }),
        }
    }

    /// Renews until that fails for too long. Returns when the work must have stopped.
    async fn keep(&mut self) -> Instant {
        let timing = self.config.timing;
        loop {
            sleep(timing.retry_period).await;
            let deadline = self.renewed + timing.renew_deadline;
            let limit = deadline.min(Instant::now() + CALL_LIMIT);
            match timeout_at(limit, self.attempt()).await {
                Ok(Ok(Attempt::Held | Attempt::Conflict)) => (),
                // Another leads already: there is no time left, only that of a prompt return.
                Ok(Ok(Attempt::HeldByOther(_))) => return Instant::now() + timing.retry_period,
                Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "can't renew the lease"),
                Err(_) => tracing::warn!(lease = self.config.name, "renewing the lease took too long"),
            }
            if Instant::now() >= self.renewed + timing.renew_deadline {
                return self.renewed + timing.duration;
            }
        }
    }

    /// Looks at the lease and takes or renews it, guarded by the version that was looked at.
    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let sent = Instant::now();
        // While we hold it the copy that we wrote last is as good as a read: the guard finds out.
        let current = match self.held.take() {
            Some(lease) => Some(lease),
            None => self.api.get_opt(&self.config.name).await?,
        };
        let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
        let now = Instant::now();
        let since = spec.map_or(now, |spec| self.observation.observe(spec, now));
        match evaluate(spec, &self.config.identity, since, now) {
            Decision::Wait(left) => return Ok(Attempt::HeldByOther(left)),
            Decision::Renew | Decision::Acquire => (),
        }
        let wanted = held(spec, &self.config.identity, self.config.timing.duration, jiff::Timestamp::now());
        match self.write(current.as_ref(), wanted).await {
            Ok(lease) => {
                self.held = Some(lease);
                self.renewed = sent;
                Ok(Attempt::Held)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(Attempt::Conflict)
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, current: Option<&Lease>, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        let params = PostParams::default();
        let metadata = current.map_or_else(
            || ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        let lease = Lease { metadata, spec: Some(spec) };
        match current {
            Some(_) => self.api.replace(&self.config.name, &params, &lease).await,
            None => self.api.create(&params, &lease).await,
        }
    }

    async fn release(&mut self) {
        // Without a copy of our own the last renewal's fate is unknown: read who holds it.
        let current = match self.held.take() {
            Some(lease) => Some(lease),
            None => timeout(CALL_LIMIT, self.api.get_opt(&self.config.name))
                .await
                .ok()
                .and_then(Result::ok)
                .flatten(),
        };
        let Some(lease) = current else { return };
        let Some(spec) =
            lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(&self.config.identity))
        else {
            return;
        };
        let wanted = released(spec, jiff::Timestamp::now());
        match timeout(CALL_LIMIT, self.write(Some(&lease), wanted)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.config.name, "gave the lease back"),
            Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "can't give the lease back"),
            Err(_) => tracing::warn!(lease = self.config.name, "giving the lease back took too long"),
        }
    }
}

fn is_free(lease: &Lease) -> bool {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    holder.is_none_or(str::is_empty)
}
