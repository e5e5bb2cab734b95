//! CPUs, memory, resources and the machine type.

use std::collections::BTreeMap;

use kubevirt_types::Quantity;
use kubevirt_types::vmi::{Cpu, DomainSpec};

use super::plain_word;
use crate::admission::field::{Findings, Path};

/// Machine types that virt-launcher's QEMU offers: the newest of each, or a version of it.
const MACHINE_TYPES: [&str; 4] = ["q35", "pc", "pc-q35-<version>", "pc-i440fx-<version>"];
/// What QEMU's q35 takes at most.
const MAX_VCPUS: u64 = 288;
/// Resources that a launcher pod may ask for.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Checks everything of a domain but firmware and devices.
pub fn validate(domain: &DomainSpec, at: &Path, findings: &mut Findings) {
    if let Some(cpu) = &domain.cpu {
        validate_cpu(cpu, &at.field("cpu"), findings);
    }
    if let Some(machine) = domain.machine.as_ref().and_then(|m| m.type_.as_deref())
        && !machine.is_empty()
        && !is_machine_type(machine)
    {
        findings.unsupported(&at.field("machine").field("type"), machine, &MACHINE_TYPES);
    }
    validate_memory(domain, at, findings);
}

fn is_machine_type(machine: &str) -> bool {
    let version = machine.strip_prefix("pc-q35-").or_else(|| machine.strip_prefix("pc-i440fx-"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    ["q35", "pc"].contains(&machine)
        || version.and_then(|v| v.split_once('.')).is_some_and(|(a, b)| is_number(a) && is_number(b))
}

fn validate_cpu(cpu: &Cpu, at: &Path, findings: &mut Findings) {
    let mut total = 1u64;
    for (name, count) in [("cores", cpu.cores), ("sockets", cpu.sockets), ("threads", cpu.threads)] {
        match count {
            Some(0) => findings.invalid(&at.field(name), 0, "must be greater than 0"),
            Some(count) => total = total.saturating_mul(u64::from(count)),
            None => {}
        }
    }
    if total > MAX_VCPUS {
        findings.invalid(at, total, format!("cores x sockets x threads must be at most {MAX_VCPUS}"));
    }
    if let Some(model) = &cpu.model {
        plain_word(model, &at.field("model"), findings);
    }
}

fn validate_memory(domain: &DomainSpec, at: &Path, findings: &mut Findings) {
    let guest_at = at.field("memory").field("guest");
    let resources_at = at.field("resources");
    let none = BTreeMap::new();
    let (requests, limits) = domain
        .resources
        .as_ref()
        .map_or((&none, &none), |resources| (&resources.requests, &resources.limits));
    let guest = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());

    let guest_bytes = guest.and_then(|quantity| positive(quantity, &guest_at, findings));
    let mut amounts = BTreeMap::new();
    for (kind, map) in [("requests", requests), ("limits", limits)] {
        let at = resources_at.field(kind);
        for (name, quantity) in map {
            if !RESOURCES.contains(&name.as_str()) {
                findings.unsupported(&at, name, &RESOURCES);
            } else if let Some(amount) = positive(quantity, &at.key(name), findings) {
                amounts.insert((kind, name.as_str()), amount);
            }
        }
    }
    for name in RESOURCES {
        if let (Some(request), Some(limit)) =
            (amounts.get(&("requests", name)), amounts.get(&("limits", name)))
            && request > limit
        {
            let why = format!("must be less than or equal to the {name} limit {}", limits[name]);
            findings.invalid(&resources_at.field("requests").key(name), &requests[name].0, why);
        }
    }
    if let (Some(guest), Some(bytes), Some(limit)) = (guest, guest_bytes, amounts.get(&("limits", "memory")))
        && bytes > *limit
    {
        let why = format!("must be less than or equal to the memory limit {}", limits["memory"]);
        findings.invalid(&guest_at, &guest.0, why);
    }
    if guest.is_none() && !requests.contains_key("memory") && !limits.contains_key("memory") {
        findings.required(&guest_at, "the guest's memory, such as 96Mi (or resources.requests.memory)");
    }
}

/// The value in thousandths, when it is a quantity above zero.
fn positive(quantity: &Quantity, at: &Path, findings: &mut Findings) -> Option<i128> {
    match quantity.millis() {
        Ok(amount) if amount > 0 => Some(amount),
        Ok(_) => {
            findings.invalid(at, &quantity.0, "must be greater than 0");
            None
        }
        Err(error) => {
            findings.invalid(at, &quantity.0, error.to_string());
            None
        }
    }
}
