//! What a guest is made of: a VirtualMachineInstance, read once at the door.
//!
//! After this nothing can be missing or malformed, and nothing can break out of the option
//! it is written into. Admission has refused most of what is refused here; a launcher may be
//! younger or older than the admission that let an object in, so it looks for itself.

mod disks;
mod network;

use kubevirt_types::quantity::Quantity;
use kubevirt_types::vmi::{Protocol, StartStrategy, VirtualMachineInstance};
use thiserror::Error;

pub use network::Masquerade;

use crate::seed::SeedSpec;

/// The machine where none is named; admission writes it into the object.
const DEFAULT_MACHINE: &str = "q35";
/// Machines that are another one in every version of QEMU.
const MACHINE_ALIASES: [&str; 2] = ["q35", "pc"];
/// QEMU's unit here; memory is rounded up to it.
const MIB: u64 = 1 << 20;

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSpec {
    /// Namespace and name.
    pub name: String,
    /// SMBIOS uuid.
    pub uuid: String,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// QEMU's machine type.
    pub machine: String,
    /// QEMU's CPU model; the accelerator's best if absent.
    pub cpu_model: Option<String>,
    /// Virtual CPUs: sockets, cores in each, threads in each.
    pub topology: (u32, u32, u32),
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Direct kernel boot.
    pub boot: Option<BootSpec>,
    /// Disks.
    pub disks: Vec<DiskSpec>,
    /// Network interfaces.
    pub interfaces: Vec<InterfaceSpec>,
    /// A serial console.
    pub console: bool,
    /// A screen.
    pub graphics: bool,
    /// A source of random numbers.
    pub rng: bool,
    /// Whether it waits to be unpaused before its first instruction.
    pub start_paused: bool,
}

/// Direct kernel boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec {
    /// The kernel's command line.
    pub args: Option<String>,
    /// Whether there is an initrd.
    pub initrd: bool,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// AHCI.
    Sata,
    /// A CD-ROM at AHCI.
    SataCdrom,
}

/// What is behind a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing, at first.
    Empty {
        /// Its size.
        bytes: u64,
    },
    /// An image that another container of the pod holds, under what the guest writes.
    Container {
        /// Whether every node gets the same: its name says what is in it.
        pinned: bool,
    },
    /// What cloud-init is told.
    Seed(SeedSpec),
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its name.
    pub name: String,
    /// Its volume's name.
    pub volume: String,
    /// What is behind it.
    pub source: Source,
    /// How it is attached.
    pub bus: Bus,
    /// Whether it can't be written.
    pub readonly: bool,
    /// What the firmware tries to boot from first: the lowest.
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees.
    pub serial: Option<String>,
}

/// What an interface looks like to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// virtio-net.
    Virtio,
    /// Intel e1000.
    E1000,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// What it looks like.
    pub nic: Nic,
    /// The network behind it.
    pub network: Masquerade,
    /// What of the guest is reached at the pod's address.
    pub ports: Vec<(Protocol, u16)>,
}

/// A VirtualMachineInstance that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// It isn't one.
    #[error("not a VirtualMachineInstance: {0}")]
    Unreadable(String),
    /// It is another one.
    #[error("metadata.uid is {given:?}: this launcher runs {ours:?}")]
    OtherInstance {
        /// The uid that came.
        given: String,
        /// The uid that was expected.
        ours: String,
    },
    /// Something is missing.
    #[error("{field}: required")]
    Missing {
        /// Where.
        field: String,
    },
    /// Something isn't what it should be.
    #[error("{field}: {value:?} is not {allowed}")]
    Invalid {
        /// Where.
        field: String,
        /// What is there.
        value: String,
        /// What could be.
        allowed: &'static str,
    },
    /// Something that this launcher can't do.
    #[error("{field}: {value} is not supported by this virt-launcher, only {allowed} is")]
    Unsupported {
        /// Where.
        field: String,
        /// What is there.
        value: String,
        /// What could be.
        allowed: &'static str,
    },
}

impl GuestSpec {
    /// Reads the object that virt-handler sent to the launcher of instance `uid`.
    pub fn parse(json: &[u8], uid: &str) -> Result<Self, SpecError> {
        let vmi: VirtualMachineInstance =
            serde_json::from_slice(json).map_err(|err| SpecError::Unreadable(err.to_string()))?;
        let given = vmi.metadata.uid.clone().unwrap_or_default();
        if given != uid {
            return Err(SpecError::OtherInstance { given, ours: uid.to_owned() });
        }
        Self::of(&vmi)
    }

    /// As [`Self::parse`], for a guest that runs elsewhere: what `q35` is there stands in the
    /// object's status, and is another machine where QEMU has another version.
    pub fn parse_incoming(json: &[u8], uid: &str) -> Result<Self, SpecError> {
        let mut spec = Self::parse(json, uid)?;
        let vmi: VirtualMachineInstance =
            serde_json::from_slice(json).map_err(|err| SpecError::Unreadable(err.to_string()))?;
        let known = vmi.status.and_then(|status| status.machine).and_then(|machine| machine.type_);
        if let Some(known) = known
            && MACHINE_ALIASES.contains(&spec.machine.as_str())
        {
            spec.machine = word("status.machine.type", &known)?;
        }
        Ok(spec)
    }

    /// Why this guest can't be moved to another node, if so.
    pub fn not_migratable(&self) -> Option<String> {
        self.disks.iter().find_map(|disk| {
            let (kind, why) = match (&disk.source, disk.readonly) {
                (Source::Empty { .. }, false) => ("an emptyDisk", "its content is on this node only"),
                (Source::Container { .. }, false) => {
                    ("a containerDisk", "what the guest writes to it is on this node only")
                }
                (Source::Container { pinned: false }, true) => (
                    "a containerDisk",
                    "its image isn't named by its digest, so another node may have another one",
                ),
                // Made again from the same instance, it is the same.
                (Source::Empty { .. } | Source::Container { pinned: true }, true) | (Source::Seed(_), _) => {
                    return None;
                }
            };
            Some(format!("volume {:?} is {kind}: {why}", disk.volume))
        })
    }

    fn of(vmi: &VirtualMachineInstance) -> Result<Self, SpecError> {
        let domain = &vmi.spec.domain;
        let devices = &domain.devices;
        let uid = vmi.metadata.uid.as_deref().unwrap_or_default();
        let firmware = domain.firmware.clone().unwrap_or_default();
        let cpu = domain.cpu.clone().unwrap_or_default();
        let machine = domain.machine.clone().unwrap_or_default().type_;
        let boot = firmware.kernel_boot.map(|boot| BootSpec {
            args: boot.kernel_args,
            initrd: boot.container.is_some_and(|container| container.initrd_path.is_some()),
        });
        Ok(Self {
            name: format!(
                "{}_{}",
                word("metadata.namespace", vmi.metadata.namespace.as_deref().unwrap_or_default())?,
                word("metadata.name", vmi.metadata.name.as_deref().unwrap_or_default())?
            ),
            uuid: uuid("spec.domain.firmware.uuid", firmware.uuid.as_deref().unwrap_or(uid))?,
            serial: firmware.serial,
            machine: word("spec.domain.machine.type", machine.as_deref().unwrap_or(DEFAULT_MACHINE))?,
            cpu_model: cpu.model.map(|model| word("spec.domain.cpu.model", &model)).transpose()?,
            topology: (
                count("spec.domain.cpu.sockets", cpu.sockets)?,
                count("spec.domain.cpu.cores", cpu.cores)?,
                count("spec.domain.cpu.threads", cpu.threads)?,
            ),
            memory_mib: memory_mib(vmi)?,
            boot,
            disks: disks::disks(vmi)?,
            interfaces: network::interfaces(&vmi.spec, uid)?,
            console: devices.autoattach_serial_console.unwrap_or(true),
            graphics: devices.autoattach_graphics_device.unwrap_or(true),
            rng: devices.rng.is_some(),
            start_paused: vmi.spec.start_strategy == Some(StartStrategy::Paused),
        })
    }
}

fn memory_mib(vmi: &VirtualMachineInstance) -> Result<u64, SpecError> {
    let domain = &vmi.spec.domain;
    let guest = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let resources = domain.resources.as_ref();
    let (field, quantity) = guest
        .map(|guest| ("spec.domain.memory.guest", guest))
        .or_else(|| Some(("spec.domain.resources.requests.memory", resources?.requests.get("memory")?)))
        .or_else(|| Some(("spec.domain.resources.limits.memory", resources?.limits.get("memory")?)))
        .ok_or_else(|| SpecError::Missing { field: "spec.domain.memory.guest".into() })?;
    Ok(bytes(field, quantity)?.div_ceil(MIB))
}

fn count(field: &str, value: Option<u32>) -> Result<u32, SpecError> {
    match value.unwrap_or(1) {
        0 => Err(SpecError::Invalid { field: field.into(), value: "0".into(), allowed: "at least 1" }),
        count => Ok(count),
    }
}

fn bytes(field: &str, quantity: &Quantity) -> Result<u64, SpecError> {
    quantity.units().ok().and_then(|units| u64::try_from(units).ok()).filter(|bytes| *bytes > 0).ok_or_else(
        || SpecError::Invalid {
            field: field.into(),
            value: quantity.to_string(),
            allowed: "a quantity of bytes greater than 0, such as 96Mi",
        },
    )
}

/// A name that means nothing to QEMU's option syntax or to a path.
fn word(field: &str, value: &str) -> Result<String, SpecError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if value.is_empty() || value.starts_with(['.', '-']) || !value.chars().all(plain) {
        return Err(SpecError::Invalid {
            field: field.into(),
            value: value.into(),
            allowed: "a name of letters, digits, '-', '_' and '.'",
        });
    }
    Ok(value.to_owned())
}

fn uuid(field: &str, value: &str) -> Result<String, SpecError> {
    let shape = value.len() == 36
        && value.char_indices().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        });
    shape.then(|| value.to_lowercase()).ok_or_else(|| SpecError::Invalid {
        field: field.into(),
        value: value.into(),
        allowed: "a uuid",
    })
}

fn mac_address(field: &str, value: &str) -> Result<String, SpecError> {
    let text = value.replace('-', ":").to_lowercase();
    let octets: Vec<&str> = text.split(':').collect();
    let shape = octets.len() == 6
        && octets.iter().all(|octet| octet.len() == 2 && octet.bytes().all(|b| b.is_ascii_hexdigit()));
    shape.then_some(text).ok_or_else(|| SpecError::Invalid {
        field: field.into(),
        value: value.into(),
        allowed: "a MAC address such as 02:00:00:00:00:01",
    })
}

#[cfg(test)]
mod tests;
