//! The VirtualMachineInstanceMigration controller: a migration waits for its turn, gets its target
//! pod, and is written into its instance's status, where the two virt-handlers find it.
//!
//! Pure: [`decide`] sees one migration, its instance, that one's pods, the cluster's migrations and
//! the time. It writes the beginning of `migrationState` and nothing of it after that: the rest
//! is the virt-handlers', and the instance's controller's when something goes wrong.

mod following;
mod over;
mod preparing;
mod status;
pub mod turn;
mod waiting;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use kubevirt_types::migration::{
    MigrationConfiguration, MigrationPhase, MigrationState, VirtualMachineInstanceMigrationStatus,
};
use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, labels};
use serde_json::json;

use crate::decision::{Action, Decision, News};
use crate::launcher::LauncherConfig;
use crate::metrics::MIGRATION_FAILED;
use crate::vmi::pods;
use crate::{merge, owner};
pub use status::{is_refused, on_failure};
use turn::Other;

/// All that a decision about a migration depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The migration.
    pub migration: Arc<VirtualMachineInstanceMigration>,
    /// The instance of the name that it gives.
    pub vmi: Option<Arc<VirtualMachineInstance>>,
    /// Pods that may be that instance's launchers.
    pub pods: Vec<Arc<Pod>>,
    /// Every migration of the cluster, this one too.
    pub all: Vec<Other>,
    /// The limits in force.
    pub limits: MigrationConfiguration,
    /// How launcher pods are made.
    pub launcher: LauncherConfig,
}

/// The node that a migration's guest leaves: where it was when it began, also when the guest is elsewhere by now.
pub fn source_node<'a>(
    migration: &VirtualMachineInstanceMigration,
    status: &'a VirtualMachineInstanceStatus,
) -> Option<&'a str> {
    match &status.migration_state {
        Some(state) if state.migration_uid == migration.uid() => Some(&state.source_node),
        Some(_) | None => status.node_name.as_deref(),
    }
}

/// What to do about a migration.
pub fn decide(inputs: &Inputs, now: Timestamp) -> Decision {
    let migration = &*inputs.migration;
    let phase = migration.phase();
    if phase.is_final() {
        return over::decide(inputs);
    }
    let mut round = Round::new(inputs, now);
    if let Some(state) = inputs.state() {
        following::decide(&mut round, state);
        return round.finish();
    }
    if migration.is_deleting() {
        round.fail("Aborted", "it was deleted before its guest began to move");
        return round.finish();
    }
    if let Some(patch) = adopt(migration) {
        round.decision.actions.push(Action::Patch(patch));
    }
    match phase {
        MigrationPhase::Unset | MigrationPhase::Pending => waiting::decide(&mut round),
        MigrationPhase::Scheduling | MigrationPhase::Scheduled => preparing::decide(&mut round),
        MigrationPhase::PreparingTarget | MigrationPhase::TargetReady | MigrationPhase::Running => {
            round.fail("InstanceGone", "the instance that it was to move is gone");
        }
        MigrationPhase::Succeeded | MigrationPhase::Failed => {}
    }
    round.finish()
}

/// The finalizer and the label that every migration of ours has.
fn adopt(migration: &VirtualMachineInstanceMigration) -> Option<serde_json::Value> {
    let labelled = migration.metadata.labels.as_ref().and_then(|all| all.get(labels::MIGRATION_VMI));
    let name: String = migration.spec.vmi_name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']);
    let finalizer = owner::add_finalizer(&migration.metadata, labels::FINALIZER_MIGRATION);
    if labelled.map(String::as_str) == Some(name) {
        return finalizer;
    }
    let mut patch = finalizer.unwrap_or_else(|| json!({}));
    patch["metadata"]["labels"] = json!({ labels::MIGRATION_VMI: name });
    Some(patch)
}

impl Inputs {
    /// What the instance says of this migration.
    fn state(&self) -> Option<&MigrationState> {
        let state = self.vmi.as_ref()?.status.as_ref()?.migration_state.as_ref()?;
        (state.migration_uid == self.migration.uid()).then_some(state)
    }

    /// The target pod.
    fn target_pod(&self) -> Option<&Pod> {
        pods::of_vmi(self.vmi.as_ref()?, &self.pods)
            .into_iter()
            .find(|pod| pods::migration_of(pod) == Some(self.migration.uid()))
    }
}

/// One decision while it is made.
struct Round<'a> {
    inputs: &'a Inputs,
    now: Timestamp,
    /// The status that is wanted.
    status: VirtualMachineInstanceMigrationStatus,
    decision: Decision,
    /// What comes after the status is written.
    after: Vec<Action>,
}

impl<'a> Round<'a> {
    fn new(inputs: &'a Inputs, now: Timestamp) -> Self {
        let status = inputs.migration.status.clone().unwrap_or_default();
        Self { inputs, now, status, decision: Decision::default(), after: vec![] }
    }

    fn enter(&mut self, phase: MigrationPhase) {
        status::enter(&mut self.status, phase, self.now);
    }

    fn wait(&mut self, reason: &str, message: &str) {
        status::wait(&mut self.status, reason, message, self.now);
    }

    /// The target pod goes first: with the phase written, nobody would look after it.
    fn fail(&mut self, reason: &str, message: &str) {
        self.decision.confirm = true;
        self.decision.actions.extend(self.inputs.target_pod().and_then(delete_pod));
        status::fail(&mut self.status, reason, message, self.now);
        self.tell(true, MIGRATION_FAILED, message);
        self.let_go();
    }

    /// Nothing of it has to be cleaned up any more.
    fn let_go(&mut self) {
        let metadata = &self.inputs.migration.metadata;
        let patch = owner::remove_finalizers(metadata, &[labels::FINALIZER_MIGRATION]);
        self.after.extend(patch.map(Action::Patch));
    }

    /// Tells those who look at the migration, and those who look at the instance.
    fn tell(&mut self, warning: bool, reason: &'static str, note: &str) {
        let migration: ObjectReference = self.inputs.migration.object_ref(&());
        let vmi = self.inputs.vmi.as_ref().map(|vmi| vmi.object_ref(&()));
        for about in std::iter::once(migration).chain(vmi) {
            let news = News { about, warning, reason, note: note.to_owned() };
            self.after.push(Action::Tell(Box::new(news)));
        }
    }

    fn finish(mut self) -> Decision {
        let patch = merge::status_patch(self.inputs.migration.status.as_ref(), &self.status);
        self.decision.actions.extend(patch.map(Action::PatchStatus));
        self.decision.actions.extend(self.after);
        self.decision
    }
}

fn delete_pod(pod: &Pod) -> Option<Action> {
    pod.metadata.deletion_timestamp.is_none().then(|| Action::DeletePod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod writes_tests;
