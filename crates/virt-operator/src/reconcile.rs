//! One round: observe, plan, check, apply, status. The whole road of an update, from the top.

use jiff::Timestamp;
use kube::Client;
use kubevirt_rollout::invariants::Violation;
use kubevirt_rollout::observed::Operator;
use kubevirt_rollout::{Observed, Plan, Policy, Stage, Step, check, plan, status};

use crate::announce::Announcer;
use crate::apply::{Applied, ApplyError, Executor};
use crate::cache::Cache;
use crate::metrics;
use crate::observe::Observer;
use crate::observe::probe::ObserveError;
use crate::publish::{PublishError, Publisher};

/// Why a round came to no end.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The cluster couldn't be seen.
    #[error("observing")]
    Observe(#[from] ObserveError),
    /// The plan breaks an invariant, so nothing of it was carried out.
    #[error("the plan is not safe: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Check(Vec<Violation>),
    /// A step couldn't be carried out.
    #[error("applying")]
    Apply(#[source] ApplyError),
    /// The status couldn't be written.
    #[error("writing the status")]
    Publish(#[from] PublishError),
}

/// How a round ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Round {
    /// The watches haven't shown all that there is.
    Behind {
        /// What is missing.
        waiting_for: Vec<String>,
    },
    /// The world has moved in between: look again.
    Again,
    /// Steps were carried out, or something is waited for.
    OnTheWay,
    /// All is as it is wanted.
    Settled,
}

/// Keeps an installation as its KubeVirt object wants it.
pub struct Reconciler {
    observer: Observer,
    executor: Executor,
    publisher: Publisher,
    announcer: Announcer,
    policy: Policy,
}

impl Reconciler {
    /// A reconciler that starts without any memory: all that it knows it sees.
    pub fn new(client: Client, cache: Cache, operator: Operator, policy: Policy, pod: &str) -> Self {
        Self {
            executor: Executor::new(client.clone(), &operator.namespace, policy.backdating),
            publisher: Publisher::new(client.clone(), cache.clone()),
            announcer: Announcer::new(client.clone(), pod),
            observer: Observer::new(client, cache, operator),
            policy,
        }
    }

    /// One round.
    pub async fn reconcile(&mut self) -> Result<Round, ReconcileError> {
        let waiting_for = self.observer.behind();
        if !waiting_for.is_empty() {
            return Ok(Round::Behind { waiting_for });
        }
        let observed = self.observer.observe().await?;
        let now = Timestamp::now();
        let plan = plan(&observed, &self.policy, now);
        check(&plan, &observed, &self.policy, now).map_err(ReconcileError::Check)?;

        let (steps, farewell) = before_farewell(&plan.steps);
        let applied = self.apply(steps).await;
        self.publish(&observed, &plan, now).await?;
        // once its finalizer is gone the object is, and with it the status that says so
        let applied = if applied.stopped.is_some() { applied } else { self.apply(farewell).await };
        conclude(&plan, applied)
    }

    async fn apply(&mut self, steps: &[Step]) -> Applied {
        let applied = self.executor.apply(steps).await;
        self.observer.note(&applied);
        applied
    }

    async fn publish(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        metrics::stage(&plan.stage.to_string());
        for other in &observed.other_kubevirts {
            self.publisher.refuse(other, now).await?;
        }
        let Some(kubevirt) = &observed.kubevirt else { return Ok(()) };
        self.announcer.announce(kubevirt, plan).await;
        self.publisher.publish(kubevirt, &status(observed, plan, now)).await
    }
}

/// The steps, and apart from them the one after which there is no KubeVirt object any more.
fn before_farewell(steps: &[Step]) -> (&[Step], &[Step]) {
    let farewell = steps.iter().position(|step| matches!(step, Step::RemoveFinalizer { .. }));
    steps.split_at(farewell.unwrap_or(steps.len()))
}

/// What a round came to.
fn conclude(plan: &Plan, applied: Applied) -> Result<Round, ReconcileError> {
    match applied.stopped {
        Some(stale) if stale.is_stale() => {
            tracing::info!(reason = %stale, "the world has moved, planning again");
            Ok(Round::Again)
        }
        Some(error) => Err(ReconcileError::Apply(error)),
        None if plan.stage == Stage::Settled && plan.waiting_on.is_empty() => Ok(Round::Settled),
        None => Ok(Round::OnTheWay),
    }
}
