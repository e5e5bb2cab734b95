//! The launcher pod of an instance, as a value.
//!
//! Pure: the same instance and configuration always give the same pod, name included, so two
//! leaders can't make two. Never asks what node there is or what already runs.

mod cloud_init;
mod guest_images;
mod resources;
mod target;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
    ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe, SeccompProfile, SecurityContext, Sysctl,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kubevirt_types::vmi::{Port, Protocol};
use kubevirt_types::{VirtualMachineInstance, labels};
use sha2::{Digest, Sha256};

use guest_images::GuestImages;
pub use resources::{ResourcesError, memory_overhead};
pub use target::{target_pod, target_pod_name};

/// What the launcher pods of an installation have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LauncherConfig {
    /// The image of virt-launcher.
    pub image: String,
    /// Run guests with QEMU's TCG where there is no working `/dev/kvm`.
    pub use_emulation: bool,
    /// Pull policy of the launcher's image.
    pub image_pull_policy: String,
    /// Pull policy of images that an instance names without one.
    pub guest_image_pull_policy: String,
}

/// What the pod gets on top of the guest's grace, for the launcher to kill QEMU and report.
const POD_GRACE_EXTRA_SECONDS: i64 = 15;
/// Where the launcher's image has its binary.
const BINARY: &str = "/usr/bin/virt-launcher";
/// Ports below are root's, unless the pod's network says otherwise.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// The launcher's container.
pub const COMPUTE: &str = "compute";

/// The grace that an instance gives its guest.
pub fn grace_seconds(vmi: &VirtualMachineInstance) -> i64 {
    vmi.spec.grace_seconds()
}

/// The grace of an instance's launcher pod.
pub fn pod_grace_seconds(vmi: &VirtualMachineInstance) -> i64 {
    grace_seconds(vmi) + POD_GRACE_EXTRA_SECONDS
}

/// The name of an instance's launcher pod: the same for the same uid, whoever asks.
pub fn pod_name(vmi: &VirtualMachineInstance) -> String {
    named(vmi, vmi.uid())
}

/// The name of a launcher pod of an instance that `text` tells from others.
fn named(vmi: &VirtualMachineInstance, text: &str) -> String {
    // Longer names would make the pod's host name and our labels invalid.
    let name: String = vmi.name().chars().take(43).collect();
    format!("virt-launcher-{}-{}", name.trim_end_matches(['-', '.']), short_hash(text))
}

/// Five characters out of 32^5, of an alphabet without look-alikes.
pub fn short_hash(text: &str) -> String {
    hash(text, 5)
}

/// So many characters of the same alphabet, at most 32.
pub fn hash(text: &str, characters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"23456789abcdefghjkmnpqrstuvwxyz0";
    let digest = Sha256::digest(text);
    digest.iter().take(characters).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

/// The launcher pod of an instance.
pub fn launcher_pod(vmi: &VirtualMachineInstance, config: &LauncherConfig) -> Result<Pod, ResourcesError> {
    let images = GuestImages::of(vmi);
    let mut init_containers = images.containers(config);
    resources::limit_as(vmi, init_containers.as_deref_mut().unwrap_or_default());
    let secrets = cloud_init::secrets(vmi);
    let mut node_selector = vmi.spec.node_selector.clone().unwrap_or_default();
    node_selector.insert(labels::SCHEDULABLE.to_owned(), "true".to_owned());
    let mut mounts = images.launcher_mounts();
    mounts.extend(secrets.iter().map(|(_, mount)| mount.clone()));
    let spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        hostname: vmi.spec.hostname.clone(),
        termination_grace_period_seconds: Some(pod_grace_seconds(vmi)),
        node_selector: Some(node_selector),
        affinity: vmi.spec.affinity.clone(),
        tolerations: Some(vmi.spec.tolerations.clone()).filter(|list| !list.is_empty()),
        image_pull_secrets: images.pull_secrets(),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(labels::LAUNCHER_UID),
            run_as_group: Some(labels::LAUNCHER_UID),
            run_as_non_root: Some(true),
            fs_group: Some(labels::LAUNCHER_UID),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            sysctls: sysctls(vmi),
            ..PodSecurityContext::default()
        }),
        init_containers,
        containers: vec![compute(vmi, config, mounts)?],
        volumes: Some(empty_dirs(&images).chain(secrets.into_iter().map(|(volume, _)| volume)).collect()),
        ..PodSpec::default()
    };
    Ok(Pod { metadata: metadata(vmi), spec: Some(spec), status: None })
}

fn metadata(vmi: &VirtualMachineInstance) -> ObjectMeta {
    let mut pod_labels = vmi.metadata.labels.clone().unwrap_or_default();
    // Says where the guest runs, which isn't known of a pod that isn't scheduled.
    pod_labels.remove(labels::NODE_NAME);
    pod_labels.remove(labels::MIGRATION_TARGET_NODE);
    pod_labels.insert(labels::APP.to_owned(), "virt-launcher".to_owned());
    pod_labels.insert(labels::CREATED_BY.to_owned(), vmi.uid().to_owned());
    pod_labels.insert(labels::VM_NAME.to_owned(), label_value(vmi.name()));
    let annotations = [
        (labels::DOMAIN.to_owned(), vmi.name().to_owned()),
        ("kubectl.kubernetes.io/default-container".to_owned(), COMPUTE.to_owned()),
    ];
    ObjectMeta {
        name: Some(pod_name(vmi)),
        namespace: vmi.metadata.namespace.clone(),
        labels: Some(pod_labels),
        annotations: Some(BTreeMap::from(annotations)),
        owner_references: Some(vec![OwnerReference {
            api_version: kubevirt_types::API_VERSION.to_owned(),
            kind: "VirtualMachineInstance".to_owned(),
            name: vmi.name().to_owned(),
            uid: vmi.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// A name, short enough for a label.
fn label_value(name: &str) -> String {
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

fn compute(
    vmi: &VirtualMachineInstance,
    config: &LauncherConfig,
    guest_mounts: Vec<VolumeMount>,
) -> Result<Container, ResourcesError> {
    let mut command = vec![
        BINARY.to_owned(),
        "--name".to_owned(),
        vmi.name().to_owned(),
        "--namespace".to_owned(),
        vmi.namespace().to_owned(),
        "--uid".to_owned(),
        vmi.uid().to_owned(),
        "--grace-period-seconds".to_owned(),
        grace_seconds(vmi).to_string(),
    ];
    if config.use_emulation {
        command.push("--allow-emulation".to_owned());
    }
    let mut mounts = vec![
        mount("private", "/var/run/kubevirt-private"),
        mount("sockets", "/var/run/kubevirt/sockets"),
        mount("ephemeral-disks", "/var/run/kubevirt-ephemeral-disks"),
        // QEMU and its libraries want a place for temporary files; the root isn't writable.
        mount("tmp", "/tmp"),
    ];
    mounts.extend(guest_mounts);
    Ok(Container {
        name: COMPUTE.to_owned(),
        termination_message_policy: last_words(),
        image: Some(config.image.clone()),
        image_pull_policy: Some(config.image_pull_policy.clone()),
        command: Some(command),
        env: Some(vec![
            field_env("POD_NAME", "metadata.name"),
            field_env("POD_NAMESPACE", "metadata.namespace"),
            field_env("NODE_NAME", "spec.nodeName"),
            field_env("POD_IP", "status.podIP"),
        ]),
        // A guest that is there is seen within a second; after that each look is a process in the pod, which costs as much as a
        // guest that does nothing: ten guests that were asked each second took a quarter of two processors.
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(i32::MAX), ..probe() }),
        // A busy node must not make a running guest look gone.
        readiness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(3), ..probe() }),
        ports: Some(ports(vmi)).filter(|ports| !ports.is_empty()),
        resources: Some(resources::compute(vmi, config.use_emulation)?),
        security_context: Some(unprivileged()),
        volume_mounts: Some(mounts),
        ..Container::default()
    })
}

fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(labels::LAUNCHER_UID),
        run_as_non_root: Some(true),
        run_as_user: Some(labels::LAUNCHER_UID),
        ..SecurityContext::default()
    }
}

fn empty_dirs(images: &GuestImages<'_>) -> impl Iterator<Item = Volume> {
    let names = ["private", "sockets", "ephemeral-disks", "tmp"].into_iter().chain(images.volumes());
    names.map(|name| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    })
}

/// The guest's ports: a Service or a NetworkPolicy may mean them by their names.
fn ports(vmi: &VirtualMachineInstance) -> Vec<ContainerPort> {
    let ports = vmi.spec.domain.devices.interfaces.iter().flat_map(|interface| &interface.ports);
    let container_port = |port: &Port| ContainerPort {
        name: port.name.clone(),
        protocol: Some(
            match port.protocol.unwrap_or_default() {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            }
            .to_owned(),
        ),
        container_port: port.port.into(),
        ..ContainerPort::default()
    };
    ports.map(container_port).collect()
}

/// QEMU listens at the guest's ports, and has no capability for low ones.
fn sysctls(vmi: &VirtualMachineInstance) -> Option<Vec<Sysctl>> {
    let interfaces = &vmi.spec.domain.devices.interfaces;
    let mut ports = interfaces.iter().flat_map(|interface| &interface.ports);
    ports.any(|port| port.port < FIRST_UNPRIVILEGED_PORT).then(|| {
        vec![Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() }]
    })
}

/// What a container that fails says last is in its status, and from there in the instance's.
fn last_words() -> Option<String> {
    Some("FallbackToLogsOnError".to_owned())
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// Asks the launcher whether it has a guest.
fn probe() -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some(vec![BINARY.to_owned(), "probe".to_owned()]) }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn field_env(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

#[cfg(test)]
mod tests;
