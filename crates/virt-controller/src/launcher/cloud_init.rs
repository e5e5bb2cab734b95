//! Secrets that say to cloud-init what a guest is to become: mounted, never read here.

use k8s_openapi::api::core::v1::{SecretVolumeSource, Volume, VolumeMount};
use kubevirt_types::VirtualMachineInstance;

use super::mount;

/// Where the launcher looks for them: a directory for each volume.
const CLOUD_INIT: &str = "/var/run/kubevirt/cloud-init";

/// The pod's volumes, and where the launcher sees each.
pub(super) fn secrets(vmi: &VirtualMachineInstance) -> Vec<(Volume, VolumeMount)> {
    let mut secrets = Vec::new();
    for (i, volume) in vmi.spec.volumes.iter().enumerate() {
        let Some(source) = &volume.cloud_init_no_cloud else { continue };
        let documents = [("user", &source.secret_ref), ("network", &source.network_data_secret_ref)];
        for (document, secret) in documents {
            let Some(secret) = secret else { continue };
            // By number: a volume's name may leave no room for more in another's.
            let name = format!("cloud-init-{i}-{document}");
            let path = format!("{CLOUD_INIT}/{}/{document}", volume.name);
            let source = SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                // The launcher's group; nobody else's.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            };
            let read_only = VolumeMount { read_only: Some(true), ..mount(&name, &path) };
            secrets.push((Volume { name, secret: Some(source), ..Volume::default() }, read_only));
        }
    }
    secrets
}
