//! The containers of a launcher pod in which users' images run, and what they share with the launcher.
//!
//! Users' images bring files and no program: our own binary runs in them.

use k8s_openapi::api::core::v1::{Container, LocalObjectReference, VolumeMount};
use kubevirt_types::VirtualMachineInstance;
use kubevirt_types::vmi::{ContainerDiskSource, KernelBootContainer};

use super::{BINARY, LauncherConfig, last_words, mount, resources, unprivileged};

/// Where `copy-self` puts the binary, and where a user's image is asked to run it from.
const SHARED_BIN: &str = "/var/run/kubevirt/bin";
/// Where kernel and initrd of the user's image end up.
const KERNEL_BOOT: &str = "/var/run/kubevirt/kernel-boot";
/// Where the sockets are at which disks' images are to be had.
const CONTAINER_DISKS: &str = "/var/run/kubevirt/disks";

/// Users' images in an instance.
#[derive(Debug)]
pub(super) struct GuestImages<'a> {
    kernel: Option<&'a KernelBootContainer>,
    /// Volumes by their place among all, and name.
    disks: Vec<(usize, &'a str, &'a ContainerDiskSource)>,
}

impl<'a> GuestImages<'a> {
    /// All that an instance names.
    pub(super) fn of(vmi: &'a VirtualMachineInstance) -> Self {
        let kernel_boot = vmi.spec.domain.firmware.as_ref().and_then(|f| f.kernel_boot.as_ref());
        let volumes = vmi.spec.volumes.iter().enumerate();
        Self {
            kernel: kernel_boot.and_then(|boot| boot.container.as_ref()),
            disks: volumes
                .filter_map(|(i, volume)| Some((i, volume.name.as_str(), volume.container_disk.as_ref()?)))
                .collect(),
        }
    }

    /// The Secrets to pull them with, each once.
    pub(super) fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let kernel = self.kernel.and_then(|image| image.image_pull_secret.clone());
        let disks = self.disks.iter().filter_map(|(_, _, disk)| disk.image_pull_secret.clone());
        let mut names: Vec<LocalObjectReference> = Vec::new();
        for name in kernel.into_iter().chain(disks) {
            if names.iter().all(|known| known.name != name) {
                names.push(LocalObjectReference { name });
            }
        }
        Some(names).filter(|names| !names.is_empty())
    }

    /// The containers that run before the launcher's, and beside it, in this order.
    pub(super) fn containers(&self, config: &LauncherConfig) -> Option<Vec<Container>> {
        if self.kernel.is_none() && self.disks.is_empty() {
            return None;
        }
        let mut containers = vec![copy_self(config)];
        containers.extend(self.kernel.map(|image| kernel_boot(image, config)));
        // First all that can fail for good: a sidecar that fails would be started again and again.
        containers.extend(self.disks.iter().map(|(i, _, disk)| container_disk(*i, disk, None, config)));
        containers
            .extend(self.disks.iter().map(|(i, name, disk)| container_disk(*i, disk, Some(name), config)));
        Some(containers)
    }

    /// Names of the emptyDirs through which they share.
    pub(super) fn volumes(&self) -> Vec<&'static str> {
        let kernel = self.kernel.map(|_| "kernel-boot");
        let disks = self.disks.first().map(|_| "container-disks");
        let binary = kernel.or(disks).map(|_| "virt-bin-share");
        [binary, kernel, disks].into_iter().flatten().collect()
    }

    /// What the launcher sees of it.
    pub(super) fn launcher_mounts(&self) -> Vec<VolumeMount> {
        let kernel = self.kernel.map(|_| mount("kernel-boot", KERNEL_BOOT));
        let disks = self.disks.first().map(|_| mount("container-disks", CONTAINER_DISKS));
        let read_only = |mount| VolumeMount { read_only: Some(true), ..mount };
        [kernel, disks].into_iter().flatten().map(read_only).collect()
    }
}

fn copy_self(config: &LauncherConfig) -> Container {
    Container {
        name: "copy-self".to_owned(),
        termination_message_policy: last_words(),
        image: Some(config.image.clone()),
        image_pull_policy: Some(config.image_pull_policy.clone()),
        command: Some(vec![BINARY.to_owned(), "copy-self".to_owned(), SHARED_BIN.to_owned()]),
        resources: Some(resources::init_container()),
        security_context: Some(unprivileged()),
        volume_mounts: Some(vec![mount("virt-bin-share", SHARED_BIN)]),
        ..Container::default()
    }
}

fn kernel_boot(image: &KernelBootContainer, config: &LauncherConfig) -> Container {
    let mut arguments = Vec::new();
    for (flag, path) in [("--kernel", &image.kernel_path), ("--initrd", &image.initrd_path)] {
        if let Some(path) = path {
            arguments.extend([flag.to_owned(), path.clone()]);
        }
    }
    arguments.extend(["--to".to_owned(), KERNEL_BOOT.to_owned()]);
    let policy = image.image_pull_policy.as_ref();
    let mut container = in_users_image("kernel-boot", &image.image, policy, arguments, config);
    container.volume_mounts.get_or_insert_default().push(mount("kernel-boot", KERNEL_BOOT));
    container
}

/// Looks whether the image has the disk's image; with the name of its volume, gives it to the launcher.
fn container_disk(
    i: usize,
    disk: &ContainerDiskSource,
    gives: Option<&str>,
    config: &LauncherConfig,
) -> Container {
    let mut arguments = Vec::new();
    if let Some(path) = &disk.path {
        arguments.extend(["--path".to_owned(), path.clone()]);
    }
    if let Some(volume) = gives {
        arguments.extend(["--to".to_owned(), format!("{CONTAINER_DISKS}/{volume}")]);
    }
    let policy = disk.image_pull_policy.as_ref();
    let mut container = in_users_image("container-disk", &disk.image, policy, arguments, config);
    // By number: a volume's name may leave no room for more in a container's.
    container.name = format!("container-disk-{i}");
    match gives {
        None => container.name += "-check",
        Some(_) => {
            // Runs beside the launcher, and ends after it.
            container.restart_policy = Some("Always".to_owned());
            container.volume_mounts.get_or_insert_default().push(mount("container-disks", CONTAINER_DISKS));
        }
    }
    container
}

/// A container of a user's image that runs our binary.
fn in_users_image(
    task: &str,
    image: &str,
    policy: Option<&String>,
    arguments: Vec<String>,
    config: &LauncherConfig,
) -> Container {
    let mut command = vec![format!("{SHARED_BIN}/virt-launcher"), task.to_owned()];
    command.extend(arguments);
    Container {
        name: task.to_owned(),
        termination_message_policy: last_words(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(policy.unwrap_or(&config.guest_image_pull_policy).clone()),
        command: Some(command),
        resources: Some(resources::init_container()),
        security_context: Some(unprivileged()),
        volume_mounts: Some(vec![VolumeMount {
            read_only: Some(true),
            ..mount("virt-bin-share", SHARED_BIN)
        }]),
        ..Container::default()
    }
}
