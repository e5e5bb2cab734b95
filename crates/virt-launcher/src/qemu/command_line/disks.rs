//! A guest's disks on QEMU's command line. Pure.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde_json::json;

use super::Line;
use crate::container_disk::image::Format;
use crate::disks::Inherited;
use crate::paths::Paths;
use crate::qemu::spec::{Bus, DiskSpec, Source};

/// Ports of one AHCI controller.
const SATA_PORTS: usize = 6;

pub(super) fn disks(
    line: &mut Line,
    disks: &[DiskSpec],
    images: &BTreeMap<String, Inherited>,
    paths: &Paths,
) {
    let mut ports = 0;
    let first = booted_unasked(disks);
    for (i, disk) in disks.iter().enumerate() {
        match (&disk.source, images.get(&disk.volume)) {
            (Source::Empty { .. }, _) => file(line, i, disk, paths.empty_disk(&disk.volume).as_os_str()),
            (Source::Seed(_), _) => file(line, i, disk, paths.seed(&disk.volume).as_os_str()),
            (Source::Container { .. }, Some(image)) => container(line, i, disk, *image, paths),
            // Without its image a guest isn't started; QEMU would name the node that is missing.
            (Source::Container { .. }, None) => {}
        }
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Sata | Bus::SataCdrom => {
                let (controller, port) = (ports / SATA_PORTS, ports % SATA_PORTS);
                if port == 0 {
                    line.add("-device", format!("ahci,id=sata{controller}"));
                }
                ports += 1;
                let kind = if disk.bus == Bus::SataCdrom { "ide-cd" } else { "ide-hd" };
                format!("{kind},bus=sata{controller}.{port}")
            }
        };
        let mut device = format!("{device},id=disk-{},drive=disk{i}", disk.name);
        if let Some(order) = disk.boot_order.or((first == Some(i)).then_some(1)) {
            device += &format!(",bootindex={order}");
        }
        match &disk.serial {
            None => line.add("-device", device),
            Some(serial) => line.option("-device", &format!("{device},serial="), OsStr::new(serial)),
        }
    }
}

/// The disk that is booted from where the instance names none: its first. The firmware alone would take any sata disk
/// before a virtio one. CD-ROMs are what it tries next, and nothing boots from a seed.
fn booted_unasked(disks: &[DiskSpec]) -> Option<usize> {
    let can_boot = |disk: &DiskSpec| disk.bus != Bus::SataCdrom && !matches!(disk.source, Source::Seed(_));
    let asked = disks.iter().any(|disk| disk.boot_order.is_some());
    disks.iter().position(can_boot).filter(|_| !asked)
}

fn access(disk: &DiskSpec) -> &'static str {
    if disk.readonly { "read-only=on" } else { "read-only=off" }
}

fn file(line: &mut Line, i: usize, disk: &DiskSpec, path: &OsStr) {
    let access = access(disk);
    line.option(
        "-blockdev",
        &format!("driver=raw,node-name=disk{i},{access},discard=unmap,file.driver=file,file.filename="),
        path,
    );
}

/// An image that QEMU inherits, and above it what the guest writes, if it may.
fn container(line: &mut Line, i: usize, disk: &DiskSpec, image: Inherited, paths: &Paths) {
    line.add("-add-fd", format!("fd={},set={i}", image.fd));
    let name = if disk.readonly { format!("disk{i}") } else { format!("image{i}") };
    let mut node = json!({
        "driver": image.format.name(), "node-name": name, "read-only": true,
        "file": {"driver": "file", "filename": format!("/dev/fdset/{i}")},
    });
    match image.format {
        Format::Raw => {}
        // Whatever the image says: it is on nothing. One that says otherwise has been refused before.
        Format::Qcow2 => node["backing"] = json!(null),
    }
    line.add("-blockdev", node.to_string());
    if !disk.readonly {
        let access = access(disk);
        line.option(
            "-blockdev",
            &format!(
                "driver=qcow2,node-name=disk{i},{access},discard=unmap,backing=image{i},file.driver=file,file.filename="
            ),
            paths.overlay(&disk.volume).as_os_str(),
        );
    }
}
