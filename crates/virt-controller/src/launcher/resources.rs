//! What a launcher pod asks of its node.
//!
//! Memory is what the guest sees plus [`memory_overhead`]; cpu is a tenth of a core for each
//! virtual CPU (KubeVirt's default allocation ratio of 10) unless the instance says more.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as PodQuantity;
use kubevirt_types::quantity::ParseQuantityError;
use kubevirt_types::vmi::DomainSpec;
use kubevirt_types::{Quantity, VirtualMachineInstance, labels};

/// How many virtual CPUs share a core where the instance requests no cpu.
const CPU_ALLOCATION_RATIO: u32 = 10;
const MIB: i64 = 1 << 20;
/// virt-launcher itself, and QEMU without a guest.
const FIXED_OVERHEAD: i64 = 112 * MIB;
/// QEMU's threads and the buffers of one virtual CPU.
const OVERHEAD_PER_VCPU: i64 = 8 * MIB;
/// Video memory and the VNC server's copy of it.
const OVERHEAD_GRAPHICS: i64 = 32 * MIB;
/// What QEMU's TCG keeps of translated code for a small guest.
const OVERHEAD_EMULATION: i64 = 64 * MIB;

/// Why a launcher pod can't be sized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourcesError {
    /// The instance doesn't say how much memory its guest has.
    #[error(
        "no memory requested: one of spec.domain.memory.guest, spec.domain.resources.requests.memory \
         or spec.domain.resources.limits.memory must be set"
    )]
    NoMemory,
    /// A quantity can't be read.
    #[error("{field}: {source}")]
    Quantity {
        /// Where it stands.
        field: String,
        /// What is wrong with it.
        source: ParseQuantityError,
    },
}

/// What the launcher pod needs in memory beyond what the guest sees, in bytes:
/// guest / 512 (page tables) + 112 MiB (virt-launcher and QEMU) + 8 MiB per virtual CPU
/// + 32 MiB with a graphics device + 64 MiB under emulation.
pub fn memory_overhead(guest: i64, vcpus: u32, graphics: bool, emulation: bool) -> i64 {
    guest / 512
        + FIXED_OVERHEAD
        + i64::from(vcpus) * OVERHEAD_PER_VCPU
        + if graphics { OVERHEAD_GRAPHICS } else { 0 }
        + if emulation { OVERHEAD_EMULATION } else { 0 }
}

/// The compute container's requests and limits.
pub(super) fn compute(
    vmi: &VirtualMachineInstance,
    emulation: bool,
) -> Result<ResourceRequirements, ResourcesError> {
    let domain = &vmi.spec.domain;
    let asked = domain.resources.clone().unwrap_or_default();
    let request = |name: &str| asked.requests.get(name);
    let limit = |name: &str| asked.limits.get(name);

    let guest_field = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let guest = guest_field
        .or_else(|| request("memory"))
        .or_else(|| limit("memory"))
        .ok_or(ResourcesError::NoMemory)
        .and_then(|quantity| bytes("spec.domain.memory.guest", quantity))?;
    let vcpus = vcpus(domain);
    let graphics = domain.devices.autoattach_graphics_device.unwrap_or(true);
    let overhead = memory_overhead(guest, vcpus, graphics, emulation);
    let requested_memory = match request("memory") {
        Some(quantity) => bytes("spec.domain.resources.requests.memory", quantity)?,
        None => guest,
    };

    let mut requests = BTreeMap::from([
        ("memory".to_owned(), PodQuantity((requested_memory + overhead).to_string())),
        ("ephemeral-storage".to_owned(), PodQuantity("50M".to_owned())),
    ]);
    let mut limits = BTreeMap::new();
    if let Some(quantity) = limit("memory") {
        let limit = bytes("spec.domain.resources.limits.memory", quantity)?;
        limits.insert("memory".to_owned(), PodQuantity((limit + overhead).to_string()));
    }
    match (request("cpu"), limit("cpu")) {
        (Some(quantity), _) | (None, Some(quantity)) => {
            requests.insert("cpu".to_owned(), PodQuantity(quantity.0.clone()));
        }
        (None, None) => {
            let millis = vcpus * 1_000 / CPU_ALLOCATION_RATIO;
            requests.insert("cpu".to_owned(), PodQuantity(format!("{millis}m")));
        }
    }
    if let Some(quantity) = limit("cpu") {
        limits.insert("cpu".to_owned(), PodQuantity(quantity.0.clone()));
    }
    if !emulation {
        for list in [&mut requests, &mut limits] {
            list.insert(labels::DEVICE_KVM.to_owned(), PodQuantity("1".to_owned()));
        }
    }
    Ok(ResourceRequirements {
        requests: Some(requests),
        limits: Some(limits).filter(|limits| !limits.is_empty()),
        claims: None,
    })
}

/// What an init container that copies a few files needs.
pub(super) fn init_container() -> ResourceRequirements {
    let list = |cpu: &str, memory: &str| {
        BTreeMap::from([
            ("cpu".to_owned(), PodQuantity(cpu.to_owned())),
            ("memory".to_owned(), PodQuantity(memory.to_owned())),
        ])
    };
    ResourceRequirements { requests: Some(list("10m", "40M")), ..ResourceRequirements::default() }
}

/// Limits the containers beside the guest's to what they request, where the guest is limited: one without limits would
/// take a pod that is Guaranteed its quality of service, and a quota on limits would refuse the pod.
pub(super) fn limit_as(vmi: &VirtualMachineInstance, containers: &mut [Container]) {
    let limited = vmi.spec.domain.resources.clone().unwrap_or_default().limits;
    for resources in containers.iter_mut().filter_map(|container| container.resources.as_mut()) {
        let requests = resources.requests.iter().flatten();
        let limits = requests.filter(|(name, _)| limited.contains_key(*name));
        let limits: BTreeMap<_, _> =
            limits.map(|(name, quantity)| (name.clone(), quantity.clone())).collect();
        resources.limits = Some(limits).filter(|limits| !limits.is_empty());
    }
}

/// Cores times sockets times threads.
fn vcpus(domain: &DomainSpec) -> u32 {
    let cpu = domain.cpu.clone().unwrap_or_default();
    [cpu.cores, cpu.sockets, cpu.threads].into_iter().map(|n| n.unwrap_or(1).max(1)).product()
}

fn bytes(field: &str, quantity: &Quantity) -> Result<i64, ResourcesError> {
    quantity.units().map_err(|source| ResourcesError::Quantity { field: field.to_owned(), source })
}
