//! A guest's disks. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubevirt_types::VirtualMachineInstance;
use kubevirt_types::vmi::{CloudInitNoCloudSource, ContainerDiskSource, Disk, LocalObjectReference, Volume};

use super::{Bus, DiskSpec, Source, SpecError, bytes, word};
use crate::seed::{Document, SeedSpec};

pub(super) fn disks(vmi: &VirtualMachineInstance) -> Result<Vec<DiskSpec>, SpecError> {
    let disks = &vmi.spec.domain.devices.disks;
    disks.iter().enumerate().map(|(i, disk)| self::disk(i, disk, vmi)).collect()
}

fn disk(i: usize, disk: &Disk, vmi: &VirtualMachineInstance) -> Result<DiskSpec, SpecError> {
    let field = |name: &str| format!("spec.domain.devices.disks[{i}].{name}");
    let name = word(&field("name"), &disk.name)?;
    let invalid = |name: &str, value: &str, allowed| SpecError::Invalid {
        field: field(name),
        value: value.to_owned(),
        allowed,
    };
    let volumes = &vmi.spec.volumes;
    let at = volumes.iter().position(|volume| volume.name == name);
    let at = at.ok_or_else(|| invalid("name", &name, "the name of a volume"))?;
    let source = source(&volumes[at], &format!("spec.volumes[{at}]"), vmi)?;
    let target = disk.disk.clone().unwrap_or_default();
    let bus = match (&disk.cdrom, target.bus.as_deref()) {
        (Some(cdrom), _) => match cdrom.bus.as_deref() {
            None | Some("sata") => Bus::SataCdrom,
            Some(other) => return Err(invalid("cdrom.bus", other, "sata")),
        },
        (None, None | Some("virtio")) => Bus::Virtio,
        (None, Some("sata")) => Bus::Sata,
        (None, Some(other)) => return Err(invalid("disk.bus", other, "virtio or sata")),
    };
    let is_seed = matches!(source, Source::Seed(_));
    let readonly = bus == Bus::SataCdrom || is_seed || target.readonly.unwrap_or_default();
    if bus == Bus::Sata && readonly {
        return Err(invalid("disk.readonly", "true", "possible on sata, only on virtio and for a cdrom"));
    }
    Ok(DiskSpec {
        volume: name.clone(),
        name,
        source,
        bus,
        readonly,
        boot_order: disk.boot_order,
        serial: disk.serial.clone(),
    })
}

fn source(volume: &Volume, field: &str, vmi: &VirtualMachineInstance) -> Result<Source, SpecError> {
    if let Some(empty) = &volume.empty_disk {
        let bytes = bytes(&format!("{field}.emptyDisk.capacity"), &empty.capacity)?;
        return Ok(Source::Empty { bytes });
    }
    if let Some(container) = &volume.container_disk {
        return Ok(Source::Container { pinned: is_pinned(container) });
    }
    if let Some(cloud_init) = &volume.cloud_init_no_cloud {
        return seed(cloud_init, &format!("{field}.cloudInitNoCloud"), vmi).map(Source::Seed);
    }
    Err(SpecError::Unsupported {
        field: field.to_owned(),
        value: volume.other.keys().next().cloned().unwrap_or_else(|| "no source".into()),
        allowed: "emptyDisk, containerDisk or cloudInitNoCloud",
    })
}

/// Whether the image's name has its digest, so that there is only one of that name.
fn is_pinned(container: &ContainerDiskSource) -> bool {
    container.image.contains("@sha256:")
}

fn seed(
    source: &CloudInitNoCloudSource,
    field: &str,
    vmi: &VirtualMachineInstance,
) -> Result<SeedSpec, SpecError> {
    let (name, namespace) = (vmi.name(), vmi.namespace());
    let hostname = vmi.spec.hostname.as_deref().or_else(|| name.split('.').next()).unwrap_or(name);
    let user = (&source.secret_ref, &source.user_data_base64, &source.user_data);
    let network = (&source.network_data_secret_ref, &source.network_data_base64, &source.network_data);
    Ok(SeedSpec {
        instance_id: format!("{name}.{namespace}"),
        hostname: hostname.to_owned(),
        user_data: document(user, &format!("{field}.userDataBase64"))?
            .ok_or_else(|| SpecError::Missing { field: format!("{field}.userData") })?,
        network_data: document(network, &format!("{field}.networkDataBase64"))?,
    })
}

type Forms<'a> = (&'a Option<LocalObjectReference>, &'a Option<String>, &'a Option<String>);

fn document((secret, base64, inline): Forms<'_>, field: &str) -> Result<Option<Document>, SpecError> {
    if secret.is_some() {
        return Ok(Some(Document::Secret));
    }
    if let Some(text) = base64 {
        // Not with the text: it may be secret.
        let invalid = |_| SpecError::Invalid {
            field: field.to_owned(),
            value: format!("({} bytes)", text.len()),
            allowed: "base64",
        };
        // Wrapped lines are what `base64` writes, and what KubeVirt takes.
        let decoded = STANDARD.decode(text.replace(['\r', '\n'], ""));
        return decoded.map(|bytes| Some(Document::Inline(bytes))).map_err(invalid);
    }
    Ok(inline.as_ref().map(|text| Document::Inline(text.clone().into_bytes())))
}
