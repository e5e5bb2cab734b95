//! migrate: makes the migration of a VM's instance, as virt-api.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use kube::api::ObjectMeta;
use kubevirt_types::VirtualMachineInstanceMigration;
use kubevirt_types::migration::VirtualMachineInstanceMigrationSpec;

use super::vm::refusal;
use super::{Name, Shared};
use crate::lifecycle::{Options, movable};
use crate::refusal::Refusal;

/// What the names of our migrations begin with: KubeVirt's own.
const NAME_PREFIX: &str = "kubevirt-migrate-vm-";

/// Has a VM's instance moved to another node.
pub async fn migrate(State(app): Shared, name: Name, body: Bytes) -> Result<StatusCode, Refusal> {
    let options = Options::parse(&body)?;
    let (namespace, name) = &name.0;
    movable(&app.vm(namespace, name).await?, &app.vmi(namespace, name).await?)?;
    let migration = migration(name, options.added_node_selector());
    // Whether it can move is for the migration's own admission: its words are passed on.
    let created = app.cluster.create_migration(namespace, &migration, options.is_dry_run()).await;
    created.map_err(|error| refusal(&error))?;
    Ok(StatusCode::ACCEPTED)
}

fn migration(vmi: &str, added_node_selector: &BTreeMap<String, String>) -> VirtualMachineInstanceMigration {
    VirtualMachineInstanceMigration {
        metadata: ObjectMeta { generate_name: Some(NAME_PREFIX.to_owned()), ..ObjectMeta::default() },
        spec: VirtualMachineInstanceMigrationSpec {
            vmi_name: vmi.to_owned(),
            added_node_selector: added_node_selector.clone(),
        },
        ..VirtualMachineInstanceMigration::default()
    }
}
