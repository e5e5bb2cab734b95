//! migrate, migrate-cancel: a migration is an object, made and deleted as the user.

use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kubevirt_types::VirtualMachineInstanceMigration;
use kubevirt_types::migration::VirtualMachineInstanceMigrationSpec;

use crate::cli::MigrateOptions;
use crate::cluster::{Cluster, words};
use crate::lifecycle::scheduled;
use crate::terminal::say;

/// What the names of our migrations begin with: KubeVirt's own.
const NAME_PREFIX: &str = "kubevirt-migrate-vm-";

/// A migration that isn't begun, or isn't cancelled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    #[error("Error migrating VirtualMachine {name}: {}", words(cause))]
    Begin { name: String, cause: Box<kube::Error> },
    #[error("Error cancelling the migration of VirtualMachine {name}: {}", words(cause))]
    Cancel { name: String, cause: Box<kube::Error> },
    #[error("Found no migration to cancel for {name}")]
    None { name: String },
}

pub(crate) async fn begin(cluster: &Cluster, options: &MigrateOptions) -> Result<(), MigrateError> {
    let name = &options.name;
    let migration = VirtualMachineInstanceMigration {
        metadata: ObjectMeta { generate_name: Some(NAME_PREFIX.to_owned()), ..ObjectMeta::default() },
        spec: VirtualMachineInstanceMigrationSpec { vmi_name: name.clone() },
        ..VirtualMachineInstanceMigration::default()
    };
    let params = PostParams { dry_run: options.dry_run, ..PostParams::default() };
    let created = migrations(cluster).create(&params, &migration).await;
    created.map_err(|cause| MigrateError::Begin { name: name.clone(), cause: Box::new(cause) })?;
    say(&scheduled("VM", name, "migrate"));
    Ok(())
}

pub(crate) async fn cancel(cluster: &Cluster, options: &MigrateOptions) -> Result<(), MigrateError> {
    let name = &options.name;
    let failed = |cause| MigrateError::Cancel { name: name.clone(), cause: Box::new(cause) };
    let api = migrations(cluster);
    let all = api.list(&ListParams::default()).await.map_err(failed)?;
    let running = running(&all.items, name).ok_or_else(|| MigrateError::None { name: name.clone() })?;
    let params = DeleteParams { dry_run: options.dry_run, ..DeleteParams::default() };
    api.delete(running, &params).await.map_err(failed)?;
    say(&scheduled("VM", name, "migrate-cancel"));
    Ok(())
}

fn migrations(cluster: &Cluster) -> Api<VirtualMachineInstanceMigration> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

/// The name of the migration of `vmi` that isn't over; there is one at most.
fn running<'a>(all: &'a [VirtualMachineInstanceMigration], vmi: &str) -> Option<&'a str> {
    all.iter().find(|m| m.spec.vmi_name == vmi && !m.phase().is_final()).map(|m| m.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_not_over_is_cancelled() {
        let migration = |name: &str, vmi: &str, phase: &str| {
            serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {"vmiName": vmi}, "status": {"phase": phase},
            }))
            .unwrap()
        };
        let mut all = vec![migration("m1", "a", "Succeeded"), migration("m2", "b", "Running")];
        assert_eq!(running(&all, "a"), None);
        all.push(migration("m3", "a", "Pending"));
        assert_eq!(running(&all, "a"), Some("m3"));
    }
}
