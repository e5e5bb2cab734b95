//! A guest's disks and network interfaces. Pure.

use kubevirt_types::vmi::{Disk, Interface, Volume};

use super::{Bus, DiskSpec, InterfaceSpec, Nic, SpecError, bytes, mac_address, word};

pub(super) fn disks(disks: &[Disk], volumes: &[Volume]) -> Result<Vec<DiskSpec>, SpecError> {
    disks.iter().enumerate().map(|(i, disk)| self::disk(i, disk, volumes)).collect()
}

fn disk(i: usize, disk: &Disk, volumes: &[Volume]) -> Result<DiskSpec, SpecError> {
    let field = |name: &str| format!("spec.domain.devices.disks[{i}].{name}");
    let name = word(&field("name"), &disk.name)?;
    let invalid = |name: &str, value: &str, allowed| SpecError::Invalid {
        field: field(name),
        value: value.to_owned(),
        allowed,
    };
    let at = volumes.iter().position(|volume| volume.name == name);
    let at = at.ok_or_else(|| invalid("name", &name, "the name of a volume"))?;
    let source = volumes[at].empty_disk.as_ref().ok_or_else(|| SpecError::Unsupported {
        field: format!("spec.volumes[{at}]"),
        value: volumes[at].other.keys().next().cloned().unwrap_or_else(|| "no source".into()),
        allowed: "emptyDisk",
    })?;
    let target = disk.disk.clone().unwrap_or_default();
    let readonly = target.readonly.unwrap_or_default();
    let bus = match target.bus.as_deref() {
        None | Some("virtio") => Bus::Virtio,
        Some("sata") => Bus::Sata,
        Some(other) => return Err(invalid("disk.bus", other, "virtio or sata")),
    };
    if bus == Bus::Sata && readonly {
        return Err(invalid("disk.readonly", "true", "possible on sata, only on virtio"));
    }
    Ok(DiskSpec {
        volume: name.clone(),
        name,
        bytes: bytes(&format!("spec.volumes[{at}].emptyDisk.capacity"), &source.capacity)?,
        bus,
        readonly,
        serial: disk.serial.clone(),
    })
}

pub(super) fn interfaces(
    interfaces: &[Interface],
    autoattach: Option<bool>,
    uid: &str,
) -> Result<Vec<InterfaceSpec>, SpecError> {
    let default = Interface { name: "default".into(), ..Interface::default() };
    let named = match (interfaces, autoattach.unwrap_or(true)) {
        ([], true) => std::slice::from_ref(&default),
        (named, _) => named,
    };
    named.iter().enumerate().map(|(i, nic)| interface(i, nic, uid)).collect()
}

fn interface(i: usize, interface: &Interface, uid: &str) -> Result<InterfaceSpec, SpecError> {
    let field = |name: &str| format!("spec.domain.devices.interfaces[{i}].{name}");
    let nic = match interface.model.as_deref() {
        None | Some("virtio") => Nic::Virtio,
        Some("e1000") => Nic::E1000,
        Some(other) => {
            return Err(SpecError::Invalid {
                field: field("model"),
                value: other.into(),
                allowed: "virtio or e1000",
            });
        }
    };
    let mac = match &interface.mac_address {
        Some(mac) => mac_address(&field("macAddress"), mac)?,
        None => mac_of(uid, i),
    };
    Ok(InterfaceSpec { name: word(&field("name"), &interface.name)?, mac, nic })
}

/// An address where the object has none: locally administered, and the same in every pod
/// that ever runs this instance.
pub(super) fn mac_of(uid: &str, index: usize) -> String {
    let digits: Vec<u8> = uid.bytes().filter(u8::is_ascii_hexdigit).chain([b'0'; 10]).take(10).collect();
    let pairs = digits.chunks(2).map(|pair| String::from_utf8_lossy(pair).to_lowercase());
    let mut octets: Vec<String> = std::iter::once("02".to_owned()).chain(pairs).collect();
    octets[5] = format!("{:02x}", u8::from_str_radix(&octets[5], 16).unwrap_or_default() ^ index as u8);
    octets.join(":")
}
