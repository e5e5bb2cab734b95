//! The operator's loop on the simulated cluster: observe, plan, check, apply, status.

use jiff::{SignedDuration, Timestamp};
use kubevirt_rollout::{Direction, Make, Observed, Plan, Policy, Stage, Step, check, plan_with, status};
use kubevirt_types::Release;

use crate::cluster::Cluster;
use crate::promise::Promise;
use crate::sequence::Sequence;

/// What makes plans: the real planner, or one that is wrong on purpose.
pub type Planner = fn(&Observed, &Policy, Timestamp, Make<'_>) -> Plan;

/// An operator, and the promise that is watched while it works.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Its policy.
    pub policy: Policy,
    /// What makes its plans.
    pub planner: Planner,
    /// Whether it refuses plans that break an invariant, as the real one does. Without that the promise shows what
    /// they would have done.
    pub checks: bool,
    /// What the promise may be broken in for now, by its number: what a write of another leader, that was on its way
    /// when the lease was lost, may do until it is put right.
    pub tolerates: Vec<&'static str>,
    /// Plans that were made.
    pub plans: usize,
    promise: Promise,
    sequence: Sequence,
    planned_at: Option<(u64, Timestamp)>,
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            planner: plan_with,
            checks: true,
            tolerates: vec![],
            plans: 0,
            promise: Promise::default(),
            sequence: Sequence::default(),
            planned_at: None,
        }
    }
}

/// What came of one run of the loop.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// Writes that were taken, the status included.
    pub written: usize,
    /// Whether anything was written.
    pub changed: bool,
}

/// The loop runs at least this often.
const PERIOD: SignedDuration = SignedDuration::from_secs(5);
/// What doesn't change for so long is not a matter of time any more: longer than any deadline of the policy.
const PATIENCE: SignedDuration = SignedDuration::from_secs(260);

impl Operator {
    /// An operator with another planner, that checks its plans or doesn't.
    pub fn with(planner: Planner, checks: bool) -> Self {
        Self { planner, checks, ..Self::default() }
    }

    /// The operator after a crash: all that it knew is gone. What was promised to users is still watched.
    pub fn restarted(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            planner: self.planner,
            checks: self.checks,
            tolerates: self.tolerates.clone(),
            plans: self.plans,
            promise: self.promise.clone(),
            sequence: Sequence::default(),
            planned_at: None,
        }
    }

    /// One run, on a view that is as fresh as can be. At most `budget` writes are made: then the operator dies.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn reconcile(&mut self, cluster: &mut Cluster, budget: usize) -> Result<Outcome, String> {
        let observed = cluster.observe();
        self.carry_out(cluster, &observed, budget)
    }

    /// One run on a view that may be stale.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn reconcile_from(
        &mut self,
        cluster: &mut Cluster,
        observed: &Observed,
        budget: usize,
    ) -> Result<Outcome, String> {
        self.sequence.unsure();
        let outcome = self.carry_out(cluster, observed, budget);
        self.sequence.unsure();
        outcome
    }

    fn carry_out(
        &mut self,
        cluster: &mut Cluster,
        observed: &Observed,
        budget: usize,
    ) -> Result<Outcome, String> {
        let now = cluster.now();
        let plan = (self.planner)(observed, &self.policy, now, &|config| cluster.manifests(config));
        self.plans += 1;
        if self.checks {
            check(&plan, observed, &self.policy, now).map_err(|violations| {
                let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
                format!("{:?} {}: {}", plan.direction, plan.stage, all.join("\n"))
            })?;
        }
        self.sequence.planned(&plan, observed, (cluster.meddled, cluster.misfortunes))?;
        let last = plan.steps.iter().position(|step| matches!(step, Step::RemoveFinalizer { .. }));
        let (steps, farewell) = plan.steps.split_at(last.unwrap_or(plan.steps.len()));
        let mut written = self.apply(cluster, steps, budget)?;
        if written < budget && observed.kubevirt.is_some() {
            written += usize::from(tell(cluster, observed, &plan, now));
        }
        written += self.apply(cluster, farewell, budget - written)?;
        Ok(Outcome { plan, written, changed: written > 0 })
    }

    /// Writes steps until one isn't taken, or the operator dies. How many were.
    fn apply(&mut self, cluster: &mut Cluster, steps: &[Step], budget: usize) -> Result<usize, String> {
        for (written, step) in steps.iter().enumerate() {
            if written == budget || cluster.write(step).is_err() {
                return Ok(written);
            }
            self.sequence.wrote(step)?;
            self.watch(cluster)?;
        }
        Ok(steps.len())
    }

    /// Looks whether the promise holds.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn watch(&mut self, cluster: &Cluster) -> Result<(), String> {
        let mut broken = self.promise.broken(cluster, &self.policy);
        broken.retain(|broken| !self.tolerates.iter().any(|number| broken.starts_with(number)));
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
    }

    /// Lets time pass until nothing changes any more, with a run of the loop whenever something did: the target is
    /// reached, or what is waited for is no matter of time.
    ///
    /// # Errors
    /// What was broken, in words; or, with I11, that it didn't get quiet in so many seconds.
    pub fn settle(&mut self, cluster: &mut Cluster, seconds: usize) -> Result<Plan, String> {
        let plan = self.settle_unless(cluster, seconds, |_, _| false)?;
        Ok(plan.expect("nothing stops it before it is settled"))
    }

    /// The same, but stops with nothing where `known` says that the rest has been seen.
    ///
    /// # Errors
    /// What was broken, in words; or, with I11, that it didn't get quiet in so many seconds.
    pub fn settle_unless(
        &mut self,
        cluster: &mut Cluster,
        seconds: usize,
        mut known: impl FnMut(&Self, &Cluster) -> bool,
    ) -> Result<Option<Plan>, String> {
        let mut quiet_since = cluster.now();
        let mut quiet = 0;
        let mut last = None;
        for _ in 0..seconds {
            if known(self, cluster) {
                return Ok(None);
            }
            if let Some(outcome) = self.second(cluster)? {
                let waits = &outcome.plan.waiting_on;
                let over = match outcome.plan.direction {
                    Direction::Steady => outcome.plan.stage == Stage::Settled,
                    Direction::Nothing => waits.is_empty() || waits.iter().any(|wait| wait.cause().is_some()),
                    Direction::Install
                    | Direction::Update
                    | Direction::Rollback
                    | Direction::SameVersion
                    | Direction::Uninstall => false,
                };
                if outcome.changed {
                    quiet_since = cluster.now();
                }
                quiet = if over && !outcome.changed { quiet + 1 } else { 0 };
                let waited = cluster.now().duration_since(quiet_since) >= PATIENCE;
                if quiet >= 2 || (waited && !waits.is_empty()) {
                    return Ok(Some(outcome.plan));
                }
                last = Some(outcome.plan);
            }
            cluster.tick();
            self.watch(cluster)?;
        }
        let last = last.map(|plan| format!("{:?} {}: {:?}", plan.direction, plan.stage, plan.waiting_on));
        Err(format!("I11: not quiet after {seconds} s: {}", last.unwrap_or_default()))
    }

    /// Watches what another operator has watched until now: there is one world, whoever changes it.
    pub fn watch_like(&mut self, other: &Self) {
        self.promise = other.promise.clone();
        self.tolerates.clone_from(&other.tolerates);
    }

    /// Goes on until the target is this release and everything serves in it.
    ///
    /// # Errors
    /// What was broken, in words; or, with I11, that it doesn't come there.
    pub fn arrive(&mut self, cluster: &mut Cluster, release: &Release, seconds: usize) -> Result<(), String> {
        let plan = self.settle(cluster, seconds)?;
        let status = cluster.kubevirt().and_then(|kubevirt| kubevirt.status.clone()).unwrap_or_default();
        let observed = status.observed_kube_virt_version;
        if plan.direction == Direction::Steady && observed == Some(release.to_string()) {
            return Ok(());
        }
        let waits: Vec<String> = plan.waiting_on.iter().map(ToString::to_string).collect();
        Err(format!(
            "I11: {release} is never reached: {:?} {} for {}: {observed:?}",
            plan.direction,
            plan.stage,
            waits.join("; ")
        ))
    }

    /// In how many seconds the loop runs next, if nothing changes.
    pub(crate) fn wake(&self, cluster: &Cluster) -> i64 {
        self.planned_at
            .filter(|(version, _)| *version == cluster.version())
            .map_or(0, |(_, at)| (PERIOD - cluster.now().duration_since(at)).as_secs().max(0))
    }

    /// A run of the loop, if one is due: something has changed, or it is time to look again.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn second(&mut self, cluster: &mut Cluster) -> Result<Option<Outcome>, String> {
        if self.wake(cluster) > 0 {
            return Ok(None);
        }
        self.planned_at = Some((cluster.version(), cluster.now()));
        self.reconcile(cluster, usize::MAX).map(Some)
    }

    /// Works for so many seconds.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn run(&mut self, cluster: &mut Cluster, seconds: usize) -> Result<(), String> {
        for _ in 0..seconds {
            self.second(cluster)?;
            cluster.tick();
            self.watch(cluster)?;
        }
        Ok(())
    }

    /// Runs until so many writes are made in all, then stops in the middle of whatever it did. Whether it got that
    /// far: when it is quiet before, it didn't.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn run_writes(
        &mut self,
        cluster: &mut Cluster,
        writes: usize,
        seconds: usize,
    ) -> Result<bool, String> {
        let mut left = writes;
        for _ in 0..seconds {
            if left == 0 {
                return Ok(true);
            }
            let outcome = self.reconcile(cluster, left)?;
            left -= outcome.written;
            if outcome.written == 0 {
                if outcome.plan.direction == Direction::Steady && outcome.plan.stage == Stage::Settled {
                    return Ok(false);
                }
                cluster.tick();
                self.watch(cluster)?;
            }
        }
        Ok(left == 0)
    }
}

/// Writes the status that follows from a plan, if the one that was seen is still there and it is another one.
fn tell(cluster: &mut Cluster, observed: &Observed, plan: &Plan, now: Timestamp) -> bool {
    let wanted = status(observed, plan, now);
    let had = observed.kubevirt.as_ref().and_then(|kubevirt| kubevirt.status.clone());
    let current = cluster.kubevirt().and_then(|kubevirt| kubevirt.status.clone());
    let moves = had == current && current.as_ref() != Some(&wanted);
    if moves {
        cluster.write_status(wanted);
    }
    moves
}
