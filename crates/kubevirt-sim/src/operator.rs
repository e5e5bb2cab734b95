//! The operator's loop on the simulated cluster: observe, plan, check, apply, status.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use kubevirt_rollout::{Direction, Observed, Plan, Policy, Stage, Step, check, plan_with, status};

use crate::cluster::Cluster;
use crate::promise::Promise;

/// An operator, and the promise that is watched while it works.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    /// Its policy.
    pub policy: Policy,
    promise: Promise,
    planned_at: Option<(u64, jiff::Timestamp)>,
    /// Plans that were made.
    pub plans: usize,
    written: BTreeMap<String, usize>,
}

/// What came of one run of the loop.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// Steps that were written.
    pub written: usize,
    /// Whether anything but time changed since the last run, the status included.
    pub changed: bool,
}

/// No change writes one object more often.
const MOST_WRITES: usize = 12;
/// The loop runs at least this often.
const PERIOD: SignedDuration = SignedDuration::from_secs(5);

impl Operator {
    /// The operator after a crash: all that it knew is gone. What was promised to users is still watched.
    pub fn restarted(&self) -> Self {
        Self { policy: self.policy.clone(), promise: self.promise.clone(), ..Self::default() }
    }

    /// One run, on a view that is as fresh as can be. At most `budget` steps are written: then the operator dies.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn reconcile(&mut self, cluster: &mut Cluster, budget: usize) -> Result<Outcome, String> {
        let observed = cluster.observe();
        self.reconcile_from(cluster, &observed, budget)
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
        let now = cluster.now();
        let plan = plan_with(observed, &self.policy, now, &|config| cluster.manifests(config));
        self.plans += 1;
        check(&plan, observed, &self.policy, now).map_err(|violations| {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            format!("{:?} {}: {}", plan.direction, plan.stage, all.join("\n"))
        })?;
        let mut written = 0;
        let writes: Vec<&Step> =
            plan.steps.iter().filter(|step| !matches!(step, Step::RemoveFinalizer { .. })).collect();
        let last: Vec<&Step> =
            plan.steps.iter().filter(|step| matches!(step, Step::RemoveFinalizer { .. })).collect();
        let mut alive = true;
        for step in writes {
            if written == budget {
                alive = false;
                break;
            }
            if cluster.write(step).is_err() {
                break;
            }
            written += 1;
            self.count(step)?;
            self.watch(cluster)?;
        }
        let wanted = status(observed, &plan, now);
        let had = observed.kubevirt.as_ref().and_then(|kubevirt| kubevirt.status.clone());
        let current = cluster.kubevirt().and_then(|kubevirt| kubevirt.status.clone());
        let moves =
            alive && observed.kubevirt.is_some() && had == current && current.as_ref() != Some(&wanted);
        if moves {
            cluster.write_status(wanted);
        }
        for step in last {
            if alive && written < budget && cluster.write(step).is_ok() {
                written += 1;
            }
        }
        let changed = written > 0 || moves;
        Ok(Outcome { plan, written, changed })
    }

    /// Notices two stages that undo each other's work (I2).
    fn count(&mut self, step: &Step) -> Result<(), String> {
        let text = step.to_string();
        let times = self.written.entry(text.clone()).or_default();
        *times += 1;
        if *times > MOST_WRITES { Err(format!("I2: {text}, for the {times}th time")) } else { Ok(()) }
    }

    /// Looks whether the promise holds.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn watch(&mut self, cluster: &Cluster) -> Result<(), String> {
        let broken = self.promise.broken(cluster, &self.policy);
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
    }

    /// Lets time pass until nothing changes any more, with a run of the loop whenever something did.
    ///
    /// # Errors
    /// What was broken, in words; or that it didn't get quiet in so many seconds.
    pub fn settle(&mut self, cluster: &mut Cluster, seconds: usize) -> Result<Plan, String> {
        self.written.clear();
        let mut quiet = 0;
        let mut last = None;
        for _ in 0..seconds {
            if let Some(outcome) = self.second(cluster)? {
                let over = !outcome.changed
                    && (outcome.plan.stage == Stage::Settled
                        || outcome.plan.stage == Stage::Blocked
                        || !outcome.plan.waiting_on.is_empty());
                quiet = if over { quiet + 1 } else { 0 };
                let waits = &outcome.plan.waiting_on;
                let settled = match outcome.plan.direction {
                    Direction::Steady => true,
                    Direction::Nothing => waits.is_empty() || waits.iter().any(|wait| wait.cause().is_some()),
                    Direction::Install
                    | Direction::Update
                    | Direction::Rollback
                    | Direction::SameVersion
                    | Direction::Uninstall => false,
                };
                last = Some(outcome.plan);
                if (settled && quiet >= 2) || quiet >= 16 {
                    break;
                }
            }
            cluster.tick();
            self.watch(cluster)?;
        }
        match last {
            Some(plan) if quiet >= 2 => Ok(plan),
            Some(plan) => Err(format!("not quiet after {seconds} s: {:?} {}", plan.direction, plan.stage)),
            None => Err("no plan".to_owned()),
        }
    }

    /// A run of the loop, if one is due: something has changed, or it is time to look again.
    fn second(&mut self, cluster: &mut Cluster) -> Result<Option<Outcome>, String> {
        let due = self.planned_at.is_none_or(|(version, at)| {
            version != cluster.version() || cluster.now().duration_since(at) >= PERIOD
        });
        if !due {
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

    /// Runs until so many steps are written in all, then stops in the middle of whatever it did. Whether it got
    /// that far.
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
                if !outcome.changed && outcome.plan.direction == Direction::Steady {
                    return Ok(false);
                }
                cluster.tick();
                self.watch(cluster)?;
            }
        }
        Ok(left == 0)
    }
}
