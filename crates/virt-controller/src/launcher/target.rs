//! The launcher pod that a migration takes the guest to: the instance's own, with another name and
//! on another machine.
//!
//! Pure, and the same for the same instance and migration, so two leaders can't make two.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm, PodAntiAffinity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration, labels};

use super::{LauncherConfig, ResourcesError, launcher_pod, named};

/// What nodes are told apart by.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The name of a migration's target pod: the same for the same uids, whoever asks.
pub fn target_pod_name(vmi: &VirtualMachineInstance, migration: &VirtualMachineInstanceMigration) -> String {
    named(vmi, &format!("{}/{}", vmi.uid(), migration.uid()))
}

/// The target pod of a migration of an instance.
pub fn target_pod(
    vmi: &VirtualMachineInstance,
    migration: &VirtualMachineInstanceMigration,
    config: &LauncherConfig,
) -> Result<Pod, ResourcesError> {
    let mut pod = launcher_pod(vmi, config)?;
    pod.metadata.name = Some(target_pod_name(vmi, migration));
    let pod_labels = pod.metadata.labels.get_or_insert_with(BTreeMap::new);
    pod_labels.insert(labels::MIGRATION_UID.to_owned(), migration.uid().to_owned());
    let annotations = pod.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(labels::MIGRATION_NAME.to_owned(), migration.name().to_owned());
    let spec = pod.spec.get_or_insert_default();
    if !migration.spec.added_node_selector.is_empty() {
        // What the instance itself asks for counts where both name a label.
        let own = spec.node_selector.take().unwrap_or_default();
        spec.node_selector =
            Some(migration.spec.added_node_selector.clone().into_iter().chain(own).collect());
    }
    keep_off_other_launchers(spec.affinity.get_or_insert_with(Affinity::default), vmi);
    Ok(pod)
}

/// No node that has a launcher of this instance, beyond what the user wants.
fn keep_off_other_launchers(affinity: &mut Affinity, vmi: &VirtualMachineInstance) {
    let anti = affinity.pod_anti_affinity.get_or_insert_with(PodAntiAffinity::default);
    let own = BTreeMap::from([(labels::CREATED_BY.to_owned(), vmi.uid().to_owned())]);
    anti.required_during_scheduling_ignored_during_execution.get_or_insert_with(Vec::new).push(
        PodAffinityTerm {
            label_selector: Some(LabelSelector { match_labels: Some(own), ..LabelSelector::default() }),
            topology_key: HOSTNAME.to_owned(),
            ..PodAffinityTerm::default()
        },
    );
}
