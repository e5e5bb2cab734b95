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

use super::decision::{held, must_give_back, released, valid_until};
use super::term::{self, Mandate};
use super::{Decision, LeaseConfig, LeaseError, Observation, Term, evaluate};

/// How often a standby looks by itself: it bounds a hand-over where a watch is late.
const STANDBY_POLL: Duration = Duration::from_secs(1);
/// A call that takes longer is given up and tried again.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// For how long a process that ends tries to give the lease back. Soon after that the lease is over anyway, and a
/// pod has 30 s to end.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries of that: a successor waits meanwhile.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

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
    /// The last write that we don't know to be carried out. It may be, though nobody waits for the answer any more.
    unsettled: Option<Unsettled>,
}

/// A write of whose fate nothing is known yet.
struct Unsettled {
    /// The version that it replaces: while the lease has it the write can arrive. None where it creates the lease.
    based_on: Option<String>,
}

/// What one attempt came to.
enum Attempt {
    Held,
    HeldByOther(Duration),
    Conflict,
}

/// What one try to give the lease back came to.
enum Released {
    Done,
    /// It isn't ours and won't be.
    NotOurs,
    Conflict,
}

impl Elector {
    pub(super) fn new(client: Client, config: LeaseConfig) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        let (observation, renewed) = (Observation::default(), Instant::now());
        Self { api, config, observation, held: None, renewed, unsettled: None }
    }

    /// Waits for the lease. False when told to stop before; then it isn't ours.
    pub(super) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        if stop.run_until_cancelled(self.wait()).await.is_some() {
            return true;
        }
        // A write that takes the lease may be on its way, and nobody else leads while a process that ends holds it.
        if self.held.is_some() || self.unsettled.is_some() {
            self.release().await;
        }
        false
    }

    async fn wait(&mut self) {
        let mut released = pin!(
            watcher::watch_object(self.api.clone(), &self.config.name)
                .default_backoff()
                .try_filter(|lease| futures::future::ready(lease.as_ref().is_none_or(is_free)))
        );
        loop {
            let pause = match timeout(CALL_LIMIT, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => {
                    tracing::info!(lease = self.config.name, identity = self.config.identity, "leading");
                    return;
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
        F: FnMut(Term) -> Fut,
        Fut: Future<Output = T>,
    {
        let (mandate, term) = term::begin(valid_until(self.renewed, &self.config.timing));
        let mut work = pin!(lead(term.clone()));
        // On shutdown the work winds down while the lease is still renewed.
        let done = {
            let mut keep = pin!(self.keep(&mandate));
            tokio::select! {
                result = &mut work => Ok(result),
                until = &mut keep => Err(until),
                () = stop.cancelled() => {
                    term.token().cancel();
                    tokio::select! {
                        result = &mut work => Ok(result),
                        until = &mut keep => Err(until),
                    }
                }
            }
        };
        mandate.end();
        let must_stop_by = match done {
            Ok(result) => {
                self.release().await;
                return Ok(Ended::Done(result));
            }
            Err(until) => until,
        };
        term.token().cancel();
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

    /// Renews, and prolongs the term by that, until it fails for too long. Returns when the work must have stopped.
    async fn keep(&mut self, mandate: &Mandate) -> Instant {
        let timing = self.config.timing;
        loop {
            sleep(timing.retry_period).await;
            let deadline = self.renewed + timing.renew_deadline;
            let limit = deadline.min(Instant::now() + CALL_LIMIT);
            match timeout_at(limit, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => mandate.prolong(valid_until(self.renewed, &timing)),
                Ok(Ok(Attempt::Conflict)) => (),
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
        if !self.may_land(current.as_ref()) {
            self.unsettled = None;
        }
        let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
        let now = Instant::now();
        let since = spec.map_or(now, |spec| self.observation.observe(spec, now));
        match evaluate(spec, &self.config.identity, since, now) {
            Decision::Wait(left) => return Ok(Attempt::HeldByOther(left)),
            Decision::Renew | Decision::Acquire => (),
        }
        let wanted = held(spec, &self.config.identity, self.config.timing.duration, jiff::Timestamp::now());
        // From here on whoever drops us doesn't know what becomes of it. A refusal tells nothing either: an earlier write
        // of ours may be why.
        self.unsettled = Some(Unsettled { based_on: version(current.as_ref()) });
        match self.write(current.as_ref(), wanted).await {
            Ok(lease) => {
                self.held = Some(lease);
                self.renewed = sent;
                self.unsettled = None;
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

    /// Whether the last write of unknown fate can be carried out, where the lease is this one.
    fn may_land(&self, current: Option<&Lease>) -> bool {
        self.unsettled.as_ref().is_some_and(|write| write.based_on == version(current))
    }

    /// Sees to it that the lease isn't ours and doesn't become so: a successor needn't wait then until it is over.
    async fn release(&mut self) {
        let by = Instant::now() + RELEASE_LIMIT;
        loop {
            let limit = by.min(Instant::now() + CALL_LIMIT);
            match timeout_at(limit, self.try_release()).await {
                Ok(Ok(Released::Done)) => {
                    tracing::info!(lease = self.config.name, "gave the lease back");
                    return;
                }
                Ok(Ok(Released::NotOurs)) => return,
                Ok(Ok(Released::Conflict)) => {
                    tracing::debug!(lease = self.config.name, "the lease has changed, giving it back again");
                }
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.config.name, %error, "can't give the lease back")
                }
                Err(_) => tracing::warn!(lease = self.config.name, "giving the lease back took too long"),
            }
            if Instant::now() + RELEASE_PAUSE >= by {
                tracing::warn!(lease = self.config.name, "the lease may be ours until it is over");
                return;
            }
            sleep(RELEASE_PAUSE).await;
        }
    }

    /// Looks who holds the lease, unless we know, and gives it back where need be, guarded by the version that was looked
    /// at: a renewal that nobody waits for any more may arrive in between.
    async fn try_release(&mut self) -> Result<Released, kube::Error> {
        let current = match self.held.take() {
            Some(lease) => Some(lease),
            None => self.api.get_opt(&self.config.name).await?,
        };
        let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
        if !must_give_back(spec, &self.config.identity, self.may_land(current.as_ref())) {
            return Ok(Released::NotOurs);
        }
        match self.write(current.as_ref(), released(spec, jiff::Timestamp::now())).await {
            Ok(_) => Ok(Released::Done),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(Released::Conflict)
            }
            Err(error) => Err(error),
        }
    }
}

fn version(lease: Option<&Lease>) -> Option<String> {
    lease?.metadata.resource_version.clone()
}

fn is_free(lease: &Lease) -> bool {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    holder.is_none_or(str::is_empty)
}
