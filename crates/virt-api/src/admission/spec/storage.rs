//! Volumes and the disks that name them.

use std::collections::BTreeSet;

use kubevirt_types::Release;
use kubevirt_types::vmi::{Disk, VirtualMachineInstanceSpec, Volume};

use super::{dns_label, plain_word, refuse_others};
use crate::admission::field::{Findings, Path};

/// Volume sources that work.
const SOURCES: [&str; 1] = ["emptyDisk"];
/// What may be said of a disk.
const DISK_FIELDS: [&str; 3] = ["name", "disk", "serial"];
/// Buses that a disk may be on.
const BUSES: [&str; 2] = ["virtio", "sata"];

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
    let mut seen = BTreeSet::new();
    for (index, disk) in disks.iter().enumerate() {
        let at = disks_at.index(index);
        validate_disk(disk, &at, own, findings);
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
    match &volume.empty_disk {
        Some(disk) => {
            let at = at.field("emptyDisk").field("capacity");
            match disk.capacity.units() {
                Ok(bytes) if bytes > 0 => {}
                Ok(_) => findings.invalid(&at, &disk.capacity.0, "must be greater than 0"),
                Err(error) => findings.invalid(&at, &disk.capacity.0, error.to_string()),
            }
        }
        None if volume.other.is_empty() => {
            findings.required(at, "a volume source: allowed are emptyDisk");
        }
        None => {}
    }
}

fn validate_disk(disk: &Disk, at: &Path, own: &Release, findings: &mut Findings) {
    dns_label(&disk.name, &at.field("name"), findings);
    refuse_others(disk.other.keys(), at, "field of a disk", (own, &DISK_FIELDS), findings);
    if let Some(bus) = disk.disk.as_ref().and_then(|d| d.bus.as_deref())
        && !BUSES.contains(&bus)
    {
        findings.unsupported(&at.field("disk").field("bus"), bus, &BUSES);
    }
    if let Some(target) = &disk.disk
        && target.bus.as_deref() == Some("sata")
        && target.readonly == Some(true)
    {
        findings.invalid(
            &at.field("disk").field("readonly"),
            true,
            "a sata disk can't be read-only: use bus virtio",
        );
    }
    if let Some(serial) = &disk.serial {
        plain_word(serial, &at.field("serial"), findings);
    }
}
