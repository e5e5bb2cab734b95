//! Migrations that are over: kept for people to look at, the last few of each instance.

use kubevirt_types::labels;

use super::Inputs;
use super::turn::{rank, same_instance};
use crate::decision::{Action, Decision};
use crate::{merge, owner};

/// How many finished migrations of an instance are kept.
const KEPT: usize = 5;

/// What to do about a migration that is over.
pub(super) fn decide(inputs: &Inputs) -> Decision {
    let migration = &*inputs.migration;
    let mut decision = Decision::default();
    let mut wanted = migration.status.clone().unwrap_or_default();
    if let Some(state) = inputs.state().filter(|state| state.is_final()) {
        // How long the guest stood is told after the end.
        wanted.migration_state = Some(state.clone());
    }
    let patch = merge::status_patch(migration.status.as_ref(), &wanted);
    decision.actions.extend(patch.map(Action::PatchStatus));
    let patch = owner::remove_finalizers(&migration.metadata, &[labels::FINALIZER_MIGRATION]);
    decision.actions.extend(patch.map(Action::Patch));
    if !migration.is_deleting() && newer(inputs) >= KEPT {
        decision.actions.push(Action::DeleteMigration {
            name: migration.name().to_owned(),
            uid: migration.uid().to_owned(),
        });
    }
    decision
}

/// How many migrations of the same instance ended that are younger.
fn newer(inputs: &Inputs) -> usize {
    let me = &*inputs.migration;
    inputs
        .all
        .iter()
        .map(|other| &*other.migration)
        .filter(|other| same_instance(me, other) && other.phase().is_final())
        .filter(|other| !other.is_deleting() && rank(other) > rank(me))
        .count()
}
