//! One round: observe, plan, check, apply, status. The whole road of an update, from the top.

use std::time::Instant;

use jiff::Timestamp;
use kube::Client;
use kubevirt_observe::ObserveError;
use kubevirt_rollout::invariants::Violation;
use kubevirt_rollout::observed::Operator;
use kubevirt_rollout::{Observed, Plan, Policy, Stage, Step, WaitingOn, check, plan_with, status};

use crate::announce::Announcer;
use crate::apply::{ApplyError, Executor};
use crate::cache::Cache;
use crate::made::Made;
use crate::metrics;
use crate::observe::Observer;
use crate::prober::TermLog;
use crate::publish::{PublishError, Publisher};
use crate::report::Reporter;

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
    #[error(transparent)]
    Apply(ApplyError),
    /// The status couldn't be written.
    #[error("writing the status")]
    Publish(#[from] PublishError),
}

impl ReconcileError {
    /// Whether looking again and planning again is all that it takes.
    fn is_stale(&self) -> bool {
        match self {
            Self::Apply(error) => error.is_stale(),
            Self::Observe(_) | Self::Check(_) | Self::Publish(_) => false,
        }
    }
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
    reporter: Reporter,
    policy: Policy,
    made: Made,
}

impl Reconciler {
    /// A reconciler that starts without any memory: all that it knows it sees.
    pub fn new(
        client: Client,
        cache: Cache,
        operator: Operator,
        policy: Policy,
        pod: &str,
        terms: TermLog,
    ) -> Self {
        Self {
            reporter: Reporter::new(client.clone(), cache.clone(), &operator.namespace, terms),
            executor: Executor::new(client.clone(), &operator.namespace, policy.backdating),
            publisher: Publisher::new(client.clone(), cache.clone()),
            announcer: Announcer::new(client.clone(), pod),
            observer: Observer::new(client, cache, operator),
            policy,
            made: Made::default(),
        }
    }

    /// One round.
    pub async fn reconcile(&mut self) -> Result<Round, ReconcileError> {
        let waiting_for = self.observer.behind();
        if !waiting_for.is_empty() {
            return Ok(Round::Behind { waiting_for });
        }
        let seen = Instant::now();
        let observed = self.observer.observe().await?;
        let now = Timestamp::now();
        let plan = plan_with(&observed, &self.policy, now, &|config| self.made.of(config));
        let (steps, farewell) = before_farewell(&plan.steps);
        let mut applied = match check(&plan, &observed, &self.policy, now) {
            Ok(()) => self.apply(steps, seen).await,
            Err(violations) => Err(ReconcileError::Check(violations)),
        };
        self.publish(&observed, &plan, applied.as_ref().err(), now).await?;
        // once its finalizer is gone the object is, and with it the status that says so
        if applied.is_ok() {
            applied = self.apply(farewell, seen).await;
        }
        conclude(&plan, applied)
    }

    /// Leaves to the next leader what it can't see.
    pub async fn leave(&mut self) {
        self.reporter.leave().await;
    }

    async fn apply(&mut self, steps: &[Step], seen: Instant) -> Result<(), ReconcileError> {
        let applied = self.executor.apply(steps, seen).await;
        self.observer.note(&applied);
        applied.stopped.map_or(Ok(()), |error| Err(ReconcileError::Apply(error)))
    }

    async fn publish(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        failed: Option<&ReconcileError>,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        metrics::stage(&plan.stage.to_string());
        for other in &observed.other_kubevirts {
            self.publisher
                .refuse(other, observed.kubevirt.as_ref(), &observed.operator.namespace, now)
                .await?;
        }
        let Some(kubevirt) = &observed.kubevirt else { return Ok(()) };
        let plan = with_failure(plan, failed);
        self.announcer.announce(kubevirt, &plan).await;
        let mut status = status(observed, &plan, now);
        self.reporter.round(observed, &plan, &mut status, now).await;
        self.publisher.publish(kubevirt, &status).await
    }
}

/// The plan, and with it what kept it from being carried out, for people to see.
fn with_failure(plan: &Plan, failed: Option<&ReconcileError>) -> Plan {
    let mut plan = plan.clone();
    let cause = failed.filter(|error| !error.is_stale()).map(|error| crate::chain(error));
    plan.waiting_on.extend(cause.map(|cause| WaitingOn::Refused { cause }));
    plan
}

/// The steps, and apart from them the one after which there is no KubeVirt object any more.
fn before_farewell(steps: &[Step]) -> (&[Step], &[Step]) {
    let farewell = steps.iter().position(|step| matches!(step, Step::RemoveFinalizer { .. }));
    steps.split_at(farewell.unwrap_or(steps.len()))
}

/// What a round came to.
fn conclude(plan: &Plan, applied: Result<(), ReconcileError>) -> Result<Round, ReconcileError> {
    match applied {
        Err(stale) if stale.is_stale() => {
            tracing::info!(reason = %crate::chain(&stale), "the world has moved, planning again");
            Ok(Round::Again)
        }
        Err(error) => Err(error),
        Ok(()) if plan.stage == Stage::Settled && plan.waiting_on.is_empty() => Ok(Round::Settled),
        Ok(()) => Ok(Round::OnTheWay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_rollout::Direction;

    fn plan(stage: Stage) -> Plan {
        Plan {
            direction: Direction::Update,
            stage,
            steps: vec![],
            waiting_on: vec![],
            target: None,
            failed: None,
        }
    }

    fn stale() -> ReconcileError {
        ReconcileError::Apply(ApplyError::Stale { step: "apply X".into(), message: "changed".into() })
    }

    fn refused() -> ReconcileError {
        ReconcileError::Apply(ApplyError::Timeout { step: "apply X".into() })
    }

    #[test]
    fn a_stale_step_is_no_failure() {
        assert_eq!(conclude(&plan(Stage::Crds), Err(stale())).unwrap(), Round::Again);
        assert!(with_failure(&plan(Stage::Crds), Some(&stale())).waiting_on.is_empty());
    }

    #[test]
    fn a_refused_step_is_said_in_the_status() {
        assert!(conclude(&plan(Stage::Crds), Err(refused())).is_err());
        let told = with_failure(&plan(Stage::Crds), Some(&refused()));
        assert_eq!(told.waiting_on[0].cause(), Some("apply X: no answer within 30 s"));
    }

    #[test]
    fn the_finalizer_goes_after_the_status() {
        let steps = [
            Step::CleanNode {
                node: "n".into(),
                uid: "u".into(),
                resource_version: "1".into(),
                labels: vec![],
                annotations: vec![],
            },
            Step::RemoveFinalizer { finalizer: "f".into(), uid: "u".into(), resource_version: "1".into() },
        ];
        let (before, farewell) = before_farewell(&steps);
        assert_eq!((before.len(), farewell.len()), (1, 1));
        assert_eq!(before_farewell(&steps[..1]).1.len(), 0);
    }

    #[test]
    fn only_a_settled_plan_that_waits_for_nothing_may_rest() {
        assert_eq!(conclude(&plan(Stage::Settled), Ok(())).unwrap(), Round::Settled);
        assert_eq!(conclude(&plan(Stage::Handlers), Ok(())).unwrap(), Round::OnTheWay);
        let mut waiting = plan(Stage::Settled);
        waiting.waiting_on.push(WaitingOn::GuardNotActive);
        assert_eq!(conclude(&waiting, Ok(())).unwrap(), Round::OnTheWay);
    }
}
