//! Networks and the interfaces that name them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use kubevirt_types::Release;
use kubevirt_types::vmi::{Interface, Network, Port, Protocol, VirtualMachineInstanceSpec};

use super::{dns_label, refuse_others};
use crate::admission::field::{Findings, Path};

/// Bindings that work.
const INTERFACE_FIELDS: [&str; 5] = ["name", "masquerade", "model", "macAddress", "ports"];
/// Networks that work.
const NETWORKS: [&str; 1] = ["pod"];
/// Network cards that virt-launcher's QEMU offers.
const MODELS: [&str; 2] = ["virtio", "e1000"];
/// The longest network mask that leaves addresses for gateway, guest and name server.
const LONGEST_PREFIX: u8 = 29;

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
    if let Some(cidr) = network.pod.as_ref().and_then(|pod| pod.vm_network_cidr.as_ref())
        && !is_network(cidr)
    {
        let why = format!("must be an IPv4 network of at most {LONGEST_PREFIX} bits, such as 10.0.2.0/24");
        findings.invalid(&at.field("pod").field("vmNetworkCIDR"), cidr, why);
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
    validate_ports(&interface.ports, &at.field("ports"), findings);
    if let Some(mac) = &interface.mac_address {
        let why = "must be a unicast MAC address such as 02:00:5e:10:00:01";
        if !is_unicast_mac(mac) {
            findings.invalid(&at.field("macAddress"), mac, why);
        }
    }
}

fn validate_ports(ports: &[Port], at: &Path, findings: &mut Findings) {
    let (mut seen, mut seen_names) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        if port.port == 0 {
            findings.invalid(&at.field("port"), 0, "must be between 1 and 65535");
        }
        if !seen.insert((port.protocol.unwrap_or_default(), port.port)) {
            findings.duplicate(&at.field("port"), &described(port));
        }
        if let Some(name) = &port.name {
            port_name(name, &at.field("name"), findings);
            if !seen_names.insert(name) {
                findings.duplicate(&at.field("name"), name);
            }
        }
    }
}

/// A name as ports of containers have it: it becomes one, for Services.
fn port_name(name: &str, at: &Path, findings: &mut Findings) {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let fits = (1..=15).contains(&name.len())
        && name.bytes().all(inner)
        && name.bytes().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !fits {
        let why = "must be at most 15 lower case letters, digits and '-', with a letter, and no '-' at its start, at its end or \
                   beside another";
        findings.invalid(at, name, why);
    }
}

fn described(port: &Port) -> String {
    let protocol = match port.protocol.unwrap_or_default() {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    format!("{protocol} {}", port.port)
}

/// A network's address and mask, with no bit beyond the mask, of which guests may have addresses.
fn is_network(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) else { return false };
    let inside = |prefix| u32::MAX.checked_shr(u32::from(prefix)).unwrap_or_default();
    let usable = !address.is_loopback() && !address.is_multicast() && !address.is_unspecified();
    (1..=LONGEST_PREFIX).contains(&prefix) && usable && u32::from(address) & inside(prefix) == 0
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
