//! What consecutive plans must not do: keep writing where all is as it is wanted (I1), and write again, or undo, what
//! was written (I2).

use std::collections::BTreeMap;

use kubevirt_rollout::{Direction, Observed, Plan, Stage, Step, is_subset};
use kubevirt_types::ObjectKey;

use crate::timeless::timeless;

/// A change may come back to a form of an object that it has left this often: the DaemonSet's strategy does, once
/// when the canary is good and once when the rollout is over, and again when a node fails in between.
const MOST_RETURNS: usize = 4;

/// What was written since somebody last changed something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sequence {
    change: Option<Change>,
    rested: bool,
    forms: BTreeMap<ObjectKey, Forms>,
}

/// What a plan belongs to: as long as it stays the same, nobody else has a reason to be answered.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    meddled: u64,
    misfortunes: u64,
    target: Option<String>,
    direction: Direction,
}

/// The forms that one object was written in, oldest first; none is that it was deleted.
#[derive(Debug, Clone, Default)]
struct Forms {
    seen: Vec<Option<String>>,
    last: Option<Option<String>>,
    returns: usize,
}

impl Sequence {
    /// The last plan was made from a view that may have been stale: it says nothing about the target.
    pub fn unsure(&mut self) {
        self.rested = false;
    }

    /// Looks at a plan before it is carried out.
    ///
    /// # Errors
    /// What it breaks, in words.
    pub fn planned(
        &mut self,
        plan: &Plan,
        observed: &Observed,
        (meddled, misfortunes): (u64, u64),
    ) -> Result<(), String> {
        let target = plan.target.as_ref().map(kubevirt_manifests::InstallConfig::id);
        let change = Change { meddled, misfortunes, target, direction: plan.direction };
        if self.change.as_ref() != Some(&change) {
            *self = Self { change: Some(change), ..Self::default() };
        }
        let renews = |step: &&Step| matches!(step, Step::IssueCa { .. } | Step::IssueLeaf { .. });
        if plan.direction != Direction::Steady || plan.steps.iter().any(|step| renews(&step)) {
            self.rested = false;
        } else if let (true, Some(step)) = (self.rested, plan.steps.first()) {
            return Err(format!("I1: at the target, and nobody has changed anything: {step}"));
        } else if plan.stage == Stage::Settled && plan.steps.is_empty() && plan.waiting_on.is_empty() {
            self.rested = true;
        }
        for step in &plan.steps {
            if let Step::Apply { manifest, .. } = step
                && observed.objects.get(&manifest.key).is_some_and(|live| is_subset(&manifest.body, live))
            {
                let number = if plan.direction == Direction::Steady { "I1" } else { "I2" };
                return Err(format!("{number}: {step}, and it is like that already"));
            }
        }
        Ok(())
    }

    /// Notes a step that was written.
    ///
    /// # Errors
    /// That it undoes what was done, too often.
    pub fn wrote(&mut self, step: &Step) -> Result<(), String> {
        let (key, form) = match step {
            Step::Apply { manifest, .. } => {
                (&manifest.key, Some(timeless(manifest.body.clone()).to_string()))
            }
            Step::Delete { key, .. } => (key, None),
            Step::DeleteInstances { .. }
            | Step::CreateStrategyJob { .. }
            | Step::StoreStrategy { .. }
            | Step::IssueCa { .. }
            | Step::IssueLeaf { .. }
            | Step::AddFinalizer { .. }
            | Step::RemoveFinalizer { .. }
            | Step::MigrateStorage { .. }
            | Step::CleanNode { .. } => return Ok(()),
        };
        let forms = self.forms.entry(key.clone()).or_default();
        if forms.last.as_ref() == Some(&form) {
            return Err(format!("I2: {step}, twice"));
        }
        forms.last = Some(form.clone());
        if !forms.seen.contains(&form) {
            forms.seen.push(form);
            return Ok(());
        }
        forms.returns += 1;
        if forms.returns > MOST_RETURNS {
            return Err(format!("I2: {step} brings back what was left, for the {}th time", forms.returns));
        }
        Ok(())
    }
}
