//! Volumes and the disks that show them to the guest. Pure.

use std::collections::BTreeSet;

use kubevirt_types::vmi::{CloudInitNoCloudSource, ContainerDiskSource, Disk, DiskTarget, Volume};

use crate::cli::create::{ContainerDisk, name};

/// Name of the volume that cloud-init reads: KubeVirt's.
const CLOUD_INIT: &str = "cloudinitdisk";

/// The disks don't fit together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisksError {
    #[error("--volume-containerdisk: can't name it {name:?}: {why}; give it another one with name:NAME")]
    Name { name: String, why: String },
    #[error("--volume-containerdisk: there is already a volume with name {0:?}")]
    NameTwice(String),
    #[error("--volume-containerdisk: bootorder {0} was specified multiple times")]
    BootOrderTwice(u32),
}

/// Volumes and disks, in the same order: without a boot order the first one boots.
pub(super) fn disks(
    container_disks: &[ContainerDisk],
    cloud_init: Option<CloudInitNoCloudSource>,
    vm: &str,
) -> Result<(Vec<Volume>, Vec<Disk>), DisksError> {
    let (mut volumes, mut disks) = (Vec::new(), Vec::new());
    let (mut names, mut orders) = (BTreeSet::new(), BTreeSet::new());
    if cloud_init.is_some() {
        names.insert(CLOUD_INIT.to_owned());
    }
    for (i, container_disk) in container_disks.iter().enumerate() {
        let ContainerDisk { image, name: given, boot_order } = container_disk;
        let volume = given.clone().unwrap_or_else(|| format!("{vm}-containerdisk-{i}"));
        if let Err(why) = name(&volume) {
            return Err(DisksError::Name { name: volume, why });
        }
        if !names.insert(volume.clone()) {
            return Err(DisksError::NameTwice(volume));
        }
        if let Some(order) = *boot_order
            && !orders.insert(order)
        {
            return Err(DisksError::BootOrderTwice(order));
        }
        let container_disk = ContainerDiskSource { image: image.clone(), ..ContainerDiskSource::default() };
        disks.push(Disk { boot_order: *boot_order, ..disk(&volume) });
        volumes.push(Volume { name: volume, container_disk: Some(container_disk), ..Volume::default() });
    }
    if let Some(source) = cloud_init {
        disks.push(disk(CLOUD_INIT));
        volumes.push(Volume {
            name: CLOUD_INIT.to_owned(),
            cloud_init_no_cloud: Some(source),
            ..Volume::default()
        });
    }
    Ok((volumes, disks))
}

fn disk(name: &str) -> Disk {
    let target = DiskTarget { bus: Some("virtio".to_owned()), ..DiskTarget::default() };
    Disk { name: name.to_owned(), disk: Some(target), ..Disk::default() }
}
