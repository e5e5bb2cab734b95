//! A drain: an instance that is to leave its node gets a migration, and another when that fails.
//!
//! How long the next one waits is the migration's business; here there is always at most one.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kubevirt_types::migration::VirtualMachineInstanceMigrationSpec;
use kubevirt_types::vmi::EvictionStrategy;
use kubevirt_types::{VirtualMachineInstanceMigration, VmiPhase, condition, labels};

use super::{Inputs, moves};
use crate::decision::{Action, Decision};
use crate::launcher::hash;
use crate::vm::owner_reference;

/// What a drain's migrations are called.
const PREFIX: &str = "kubevirt-evacuation-";

/// Makes the migration of an instance whose node is drained.
pub(super) fn decide(inputs: &Inputs, decision: &mut Decision) {
    let vmi = &*inputs.vmi;
    let Some(status) = &vmi.status else { return };
    let drained = status.evacuation_node_name.is_some() && status.evacuation_node_name == status.node_name;
    let moves_now = inputs.migrations.iter().any(|migration| moves::is_open(migration))
        || status.migration_state.as_ref().is_some_and(|state| !state.is_final());
    let may = status.phase == VmiPhase::Running
        && vmi.spec.eviction_strategy == Some(EvictionStrategy::LiveMigrate)
        && condition::is_true(&status.conditions, "LiveMigratable");
    if drained && may && !moves_now {
        // One that a cache doesn't show yet would get a rival.
        decision.confirm = true;
        let node = status.node_name.clone().unwrap_or_default();
        decision.actions.push(Action::CreateMigration(Box::new(migration(inputs, node))));
    }
}

/// The next migration: the same for every leader, as it is named after all those that are there and
/// over. So it never has the name of one of them.
fn migration(inputs: &Inputs, node: String) -> VirtualMachineInstanceMigration {
    let vmi = &*inputs.vmi;
    let mut over: Vec<&str> = inputs.migrations.iter().map(|migration| migration.uid()).collect();
    over.sort_unstable();
    let after = format!("{}/{}", vmi.uid(), over.join("/"));
    VirtualMachineInstanceMigration {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{}", hash(&after, 10))),
            namespace: vmi.metadata.namespace.clone(),
            annotations: Some(BTreeMap::from([(labels::EVACUATION_MIGRATION.to_owned(), node)])),
            // It goes with its instance, and doesn't keep it.
            owner_references: Some(vec![OwnerReference {
                block_owner_deletion: Some(false),
                ..owner_reference("VirtualMachineInstance", &vmi.metadata)
            }]),
            ..ObjectMeta::default()
        },
        spec: VirtualMachineInstanceMigrationSpec {
            vmi_name: vmi.name().to_owned(),
            ..VirtualMachineInstanceMigrationSpec::default()
        },
        status: None,
    }
}
