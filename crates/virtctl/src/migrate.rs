//! migrate, migrate-cancel: virt-api makes a migration; it is deleted as the user.

use std::collections::BTreeMap;

use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kubevirt_types::VirtualMachineInstanceMigration;
use serde_json::{Value, json};

use crate::cli::{MigrateCancelOptions, MigrateOptions};
use crate::cluster::{Cluster, words};
use crate::lifecycle::{dry_run, scheduled};
use crate::terminal::say;

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
    let path = cluster.path("virtualmachines", name, "migrate");
    let asked = cluster.put(&path, &body(options)).await;
    asked.map_err(|cause| MigrateError::Begin { name: name.clone(), cause: Box::new(cause) })?;
    say(&scheduled("VM", name, "migrate"));
    Ok(())
}

fn body(options: &MigrateOptions) -> Value {
    let mut body = dry_run(options.dry_run);
    if !options.added_node_selector.is_empty() {
        let labels: BTreeMap<_, _> = options.added_node_selector.iter().cloned().collect();
        body["addedNodeSelector"] = json!(labels);
    }
    body
}

pub(crate) async fn cancel(cluster: &Cluster, options: &MigrateCancelOptions) -> Result<(), MigrateError> {
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
    fn what_is_asked_for() {
        let options = |added: &[(&str, &str)], dry_run| MigrateOptions {
            name: "a".into(),
            added_node_selector: added.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            dry_run,
        };
        assert_eq!(body(&options(&[], false)), json!({}));
        assert_eq!(
            body(&options(&[("zone", "b"), ("rack", "")], true)),
            json!({"dryRun": ["All"], "addedNodeSelector": {"zone": "b", "rack": ""}})
        );
    }

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
