//! Networks and the interfaces that name them.

use std::collections::BTreeSet;

use kubevirt_types::Release;
use kubevirt_types::vmi::{Interface, Network, VirtualMachineInstanceSpec};

use super::{dns_label, refuse_others};
use crate::admission::field::{Findings, Path};

/// Bindings that work.
const INTERFACE_FIELDS: [&str; 4] = ["name", "masquerade", "model", "macAddress"];
/// Networks that work.
const NETWORKS: [&str; 1] = ["pod"];
/// Network cards that virt-launcher's QEMU offers.
const MODELS: [&str; 2] = ["virtio", "e1000"];

/// Checks networks and interfaces, and that they belong together.
pub fn validate(spec: &VirtualMachineInstanceSpec, at: &Path, own: &Release, findings: &mut Findings) {
    let networks_at = at.field("networks");
    let interfaces_at = at.field("domain").field("devices").field("interfaces");
    let interfaces = &spec.domain.devices.interfaces;
    let network_names: BTreeSet<&str> = spec.networks.iter().map(|n| n.name.as_str()).collect();
    let interface_names: BTreeSet<&str> = interfaces.iter().map(|i| i.name.as_str()).collect();

    let mut seen = BTreeSet::new();
    for (index, network) in spec.networks.iter().enumerate() {
        let at = networks_at.index(index);
        validate_network(network, &at, own, findings);
        if index > 0 && network.pod.is_some() {
            findings.forbidden(&at.field("pod"), "there is one pod network, and only one network may be it");
        }
        if !seen.insert(&network.name) {
            findings.duplicate(&at.field("name"), &network.name);
        }
        if !interface_names.contains(network.name.as_str()) {
            let why = "no interface in domain.devices.interfaces has this name";
            findings.not_found(&at.field("name"), &network.name, why);
        }
    }
    let (mut seen, mut seen_macs) = (BTreeSet::new(), BTreeSet::new());
    for (index, interface) in interfaces.iter().enumerate() {
        let at = interfaces_at.index(index);
        validate_interface(interface, &at, own, findings);
        if !seen.insert(&interface.name) {
            findings.duplicate(&at.field("name"), &interface.name);
        }
        if let Some(mac) = &interface.mac_address
            && !seen_macs.insert(mac.to_ascii_lowercase())
        {
            findings.duplicate(&at.field("macAddress"), mac);
        }
        if !network_names.contains(interface.name.as_str()) {
            findings.not_found(&at.field("name"), &interface.name, "no network in networks has this name");
        }
    }
}

fn validate_network(network: &Network, at: &Path, own: &Release, findings: &mut Findings) {
    dns_label(&network.name, &at.field("name"), findings);
    refuse_others(network.other.keys(), at, "network", (own, &NETWORKS), findings);
    if network.pod.is_none() && network.other.is_empty() {
        findings.required(at, "a kind of network: allowed are pod");
    }
}

fn validate_interface(interface: &Interface, at: &Path, own: &Release, findings: &mut Findings) {
    dns_label(&interface.name, &at.field("name"), findings);
    refuse_others(interface.other.keys(), at, "field of an interface", (own, &INTERFACE_FIELDS), findings);
    if interface.masquerade.is_none() && interface.other.is_empty() {
        findings.required(at, "a binding: allowed are masquerade");
    }
    if let Some(model) = interface.model.as_deref()
        && !MODELS.contains(&model)
    {
        findings.unsupported(&at.field("model"), model, &MODELS);
    }
    if let Some(mac) = &interface.mac_address {
        let why = "must be a unicast MAC address such as 02:00:5e:10:00:01";
        if !is_unicast_mac(mac) {
            findings.invalid(&at.field("macAddress"), mac, why);
        }
    }
}

fn is_unicast_mac(text: &str) -> bool {
    let bytes: Vec<Option<u8>> = text
        .split(if text.contains('-') { '-' } else { ':' })
        .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
        .collect();
    bytes.len() == 6
        && bytes.iter().all(Option::is_some)
        && bytes.iter().any(|byte| *byte != Some(0))
        && bytes[0].is_some_and(|first| first & 1 == 0)
}
