//! A guest's network interfaces, and the network behind them. Pure.

use std::net::Ipv4Addr;

use kubevirt_types::vmi::{DEFAULT_VM_CIDR, Interface, VirtualMachineInstanceSpec};

use super::{InterfaceSpec, Nic, SpecError, mac_address, word};

/// The longest mask that leaves addresses for gateway, guest and name server.
const LONGEST_PREFIX: u32 = 29;

/// The guest's own network behind the pod's address, with KubeVirt's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masquerade {
    /// Its address.
    pub network: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u32,
    /// The gateway: the first address.
    pub gateway: Ipv4Addr,
    /// The guest: the second.
    pub guest: Ipv4Addr,
    /// The name server: the last, so that DHCP never gives it to a second client in the guest.
    pub dns: Ipv4Addr,
}

impl Masquerade {
    /// The addresses of a network such as `10.0.2.0/24`.
    pub fn of(cidr: &str) -> Option<Self> {
        let (network, prefix) = cidr.split_once('/')?;
        let (network, prefix): (Ipv4Addr, u32) = (network.parse().ok()?, prefix.parse().ok()?);
        let hosts = u32::MAX.checked_shr(prefix)?;
        let bits = u32::from(network);
        ((1..=LONGEST_PREFIX).contains(&prefix) && bits & hosts == 0).then(|| Self {
            network,
            prefix,
            gateway: Ipv4Addr::from(bits + 1),
            guest: Ipv4Addr::from(bits + 2),
            // The last but one is the last that isn't for all.
            dns: Ipv4Addr::from((bits | hosts) - 1),
        })
    }
}

pub(super) fn interfaces(
    spec: &VirtualMachineInstanceSpec,
    uid: &str,
) -> Result<Vec<InterfaceSpec>, SpecError> {
    let devices = &spec.domain.devices;
    let default = Interface { name: "default".into(), ..Interface::default() };
    let named = match (&devices.interfaces[..], devices.autoattach_pod_interface.unwrap_or(true)) {
        ([], true) => std::slice::from_ref(&default),
        (named, _) => named,
    };
    named.iter().enumerate().map(|(i, nic)| interface(i, nic, spec, uid)).collect()
}

fn interface(
    i: usize,
    interface: &Interface,
    spec: &VirtualMachineInstanceSpec,
    uid: &str,
) -> Result<InterfaceSpec, SpecError> {
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
    let ports = interface.ports.iter().enumerate().map(|(p, port)| match port.port {
        0 => Err(SpecError::Invalid {
            field: field(&format!("ports[{p}].port")),
            value: "0".into(),
            allowed: "a port: 1 to 65535",
        }),
        number => Ok((port.protocol.unwrap_or_default(), number)),
    });
    Ok(InterfaceSpec {
        name: word(&field("name"), &interface.name)?,
        mac,
        nic,
        network: network(&interface.name, spec)?,
        ports: ports.collect::<Result<_, _>>()?,
    })
}

/// The network of this name; the usual one where there is none.
fn network(name: &str, spec: &VirtualMachineInstanceSpec) -> Result<Masquerade, SpecError> {
    let at = spec.networks.iter().position(|network| network.name == name);
    let pod = at.and_then(|at| spec.networks[at].pod.as_ref());
    let cidr = pod.and_then(|pod| pod.vm_network_cidr.as_deref()).unwrap_or(DEFAULT_VM_CIDR);
    Masquerade::of(cidr).ok_or_else(|| SpecError::Invalid {
        field: format!("spec.networks[{}].pod.vmNetworkCIDR", at.unwrap_or_default()),
        value: cidr.into(),
        allowed: "an IPv4 network of at most 29 bits, such as 10.0.2.0/24",
    })
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
