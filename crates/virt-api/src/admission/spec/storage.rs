//! Volumes and the disks that name them.

use std::collections::BTreeSet;

use kubevirt_types::Release;
use kubevirt_types::vmi::{Disk, VirtualMachineInstanceSpec, Volume};

use super::{cloud_init, dns_label, image, plain_word, refuse_others};
use crate::admission::field::{Findings, Path};

/// Volume sources that work.
const SOURCES: [&str; 3] = ["emptyDisk", "containerDisk", "cloudInitNoCloud"];
/// What may be said of a disk.
const DISK_FIELDS: [&str; 5] = ["name", "disk", "cdrom", "serial", "bootOrder"];
/// Buses that a disk may be on.
const BUSES: [&str; 2] = ["virtio", "sata"];
/// Buses that a CD-ROM may be on.
const CDROM_BUSES: [&str; 1] = ["sata"];

/// Checks volumes and disks, and that they belong together.
pub fn validate(spec: &VirtualMachineInstanceSpec, at: &Path, own: &Release, findings: &mut Findings) {
    let volumes_at = at.field("volumes");
    let disks_at = at.field("domain").field("devices").field("disks");
    let disks = &spec.domain.devices.disks;
    let volume_names: BTreeSet<&str> = spec.volumes.iter().map(|v| v.name.as_str()).collect();
    let disk_names: BTreeSet<&str> = disks.iter().map(|d| d.name.as_str()).collect();

    let mut seen = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let at = volumes_at.index(index);
        validate_volume(volume, &at, own, findings);
        if !seen.insert(&volume.name) {
            findings.duplicate(&at.field("name"), &volume.name);
        }
        if !disk_names.contains(volume.name.as_str()) {
            findings.not_found(
                &at.field("name"),
                &volume.name,
                "no disk in domain.devices.disks has this name",
            );
        }
    }
    let (mut seen, mut seen_orders) = (BTreeSet::new(), BTreeSet::new());
    for (index, disk) in disks.iter().enumerate() {
        let at = disks_at.index(index);
        let volume = spec.volumes.iter().find(|volume| volume.name == disk.name);
        validate_disk(disk, volume, &at, own, findings);
        if let Some(order) = disk.boot_order
            && !seen_orders.insert(order)
        {
            findings.duplicate(&at.field("bootOrder"), &order.to_string());
        }
        if !seen.insert(&disk.name) {
            findings.duplicate(&at.field("name"), &disk.name);
        }
        if !volume_names.contains(disk.name.as_str()) {
            findings.not_found(&at.field("name"), &disk.name, "no volume in volumes has this name");
        }
    }
}

fn validate_volume(volume: &Volume, at: &Path, own: &Release, findings: &mut Findings) {
    dns_label(&volume.name, &at.field("name"), findings);
    refuse_others(volume.other.keys(), at, "volume source", (own, &SOURCES), findings);
    let sources = [
        ("emptyDisk", volume.empty_disk.is_some()),
        ("containerDisk", volume.container_disk.is_some()),
        ("cloudInitNoCloud", volume.cloud_init_no_cloud.is_some()),
    ];
    let named: Vec<&str> = sources.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    if named.is_empty() && volume.other.is_empty() {
        findings.required(at, &format!("a volume source: allowed are {}", SOURCES.join(", ")));
    }
    for second in named.iter().skip(1) {
        findings.forbidden(&at.field(second), "a volume has one source");
    }
    if let Some(disk) = &volume.empty_disk {
        let at = at.field("emptyDisk").field("capacity");
        match disk.capacity.units() {
            Ok(bytes) if bytes > 0 => {}
            Ok(_) => findings.invalid(&at, &disk.capacity.0, "must be greater than 0"),
            Err(error) => findings.invalid(&at, &disk.capacity.0, error.to_string()),
        }
    }
    if let Some(disk) = &volume.container_disk {
        let at = at.field("containerDisk");
        let what = "the container image that holds the disk's image";
        image::validate(&disk.image, disk.image_pull_policy.as_deref(), what, &at, findings);
        image::validate_path(disk.path.as_deref(), &at.field("path"), findings);
    }
    if let Some(source) = &volume.cloud_init_no_cloud {
        cloud_init::validate(source, &at.field("cloudInitNoCloud"), findings);
    }
}

fn validate_disk(disk: &Disk, volume: Option<&Volume>, at: &Path, own: &Release, findings: &mut Findings) {
    dns_label(&disk.name, &at.field("name"), findings);
    refuse_others(disk.other.keys(), at, "field of a disk", (own, &DISK_FIELDS), findings);
    if let Some(target) = &disk.disk {
        let at = at.field("disk");
        let bus = target.bus.as_deref();
        if let Some(bus) = bus
            && !BUSES.contains(&bus)
        {
            findings.unsupported(&at.field("bus"), bus, &BUSES);
        }
        if bus == Some("sata") {
            if target.readonly == Some(true) {
                let why = "a sata disk can't be read-only: use cdrom, or bus virtio";
                findings.invalid(&at.field("readonly"), true, why);
            } else if volume.is_some_and(|volume| volume.cloud_init_no_cloud.is_some()) {
                let why = "cloudInitNoCloud is read-only, and a sata disk can't be: use cdrom, or bus virtio";
                findings.invalid(&at.field("bus"), "sata", why);
            }
        }
    }
    if let Some(target) = &disk.cdrom {
        let at = at.field("cdrom");
        if disk.disk.is_some() {
            findings.forbidden(&at, "it is a disk or a cdrom, not both");
        }
        if let Some(bus) = target.bus.as_deref()
            && !CDROM_BUSES.contains(&bus)
        {
            findings.unsupported(&at.field("bus"), bus, &CDROM_BUSES);
        }
        if target.readonly == Some(false) {
            findings.invalid(&at.field("readonly"), false, "a cdrom can't be written");
        }
    }
    if disk.boot_order == Some(0) {
        findings.invalid(&at.field("bootOrder"), 0, "must be greater than 0");
    }
    if let Some(serial) = &disk.serial {
        plain_word(serial, &at.field("serial"), findings);
    }
}
