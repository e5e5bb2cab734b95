//! Which address a port-forward leads to, and what is said when nobody answers there. Pure; the words are KubeVirt's.

use std::net::{IpAddr, SocketAddr};

use kubevirt_types::vmi::Interface;
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, condition};

use crate::refusal::{Refusal, Subject};

/// Whose port is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Target {
    Vm,
    Vmi,
}

impl Target {
    /// Both.
    pub const ALL: [Target; 2] = [Target::Vm, Target::Vmi];

    /// The resource.
    pub fn resource(self) -> &'static str {
        match self {
            Target::Vm => "virtualmachines",
            Target::Vmi => "virtualmachineinstances",
        }
    }
}

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A port of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Port {
    pub number: u16,
    pub transport: Transport,
}

impl Port {
    /// Reads a path's end.
    pub fn parse(number: &str, protocol: Option<&str>) -> Result<Self, Refusal> {
        let refused = |what: &str, value: &str, allowed: &str| {
            Err(Refusal::bad_request(format!("{what}: Invalid value: {value:?}: must be {allowed}")))
        };
        let transport = match protocol {
            None | Some("tcp") => Transport::Tcp,
            Some("udp") => Transport::Udp,
            Some(other) => return refused("protocol", other, "tcp or udp"),
        };
        match number.parse() {
            Ok(0) | Err(_) => refused("port", number, "a number from 1 to 65535"),
            Ok(number) => Ok(Self { number, transport }),
        }
    }
}

/// Whether a VM has an instance to forward to.
pub fn started(vm: &VirtualMachine) -> Result<(), Refusal> {
    match vm.status.as_ref().and_then(|status| status.created) {
        Some(true) => Ok(()),
        Some(false) | None => Err(Refusal::conflict(Subject::vm(vm.name()), "VMI is not started.")),
    }
}

/// Where the first interface of an instance is reached.
pub fn address(vmi: &VirtualMachineInstance, port: Port) -> Result<SocketAddr, Refusal> {
    let status = vmi.status.clone().unwrap_or_default();
    // Its address stays in its status, and may be another pod's by now.
    if status.phase.is_final() {
        return Err(Refusal::conflict(Subject::vmi(vmi.name()), "VMI is not running"));
    }
    if condition::is_true(&status.conditions, "Paused") {
        return Err(Refusal::conflict(Subject::vmi(vmi.name()), "VMI is paused"));
    }
    let Some(first) = status.interfaces.first() else {
        return Err(Refusal::bad_request("no network interfaces are present"));
    };
    let name = first.name.as_deref().unwrap_or_default();
    let address = first.ip_address.as_deref().unwrap_or_default();
    match address.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, port.number)),
        Err(_) => Err(Refusal::bad_request(format!("network interface {name:?} has no IP address yet"))),
    }
}

/// What is said when nobody answers at a port: why, and what the spec has to do with it.
pub fn unanswered(vmi: &VirtualMachineInstance, port: Port, why: &str) -> Refusal {
    let name = vmi.status.as_ref().and_then(|status| status.interfaces.first()?.name.clone());
    let interfaces = &vmi.spec.domain.devices.interfaces;
    let interface = match &name {
        Some(name) => interfaces.iter().find(|interface| interface.name == *name),
        None => interfaces.first(),
    };
    let mut message = format!("dialing VM: {why}");
    if !lists(interface, port) {
        message.push_str(&format!(
            ": port {} isn't listed in spec.domain.devices.interfaces[].ports, and only listed ports are forwarded",
            port.number
        ));
    }
    Refusal::internal(message)
}

fn lists(interface: Option<&Interface>, port: Port) -> bool {
    use kubevirt_types::vmi::Protocol;
    interface.into_iter().flat_map(|interface| &interface.ports).any(|listed| {
        let transport = match listed.protocol.unwrap_or_default() {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        };
        u32::from(port.number) == u32::from(listed.port) && transport == port.transport
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn vmi(interface: Value, status: Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"domain": {"devices": {"interfaces": [interface]}}}, "status": status}))
        .unwrap()
    }

    fn said<T: std::fmt::Display>(result: Result<T, Refusal>) -> String {
        match result {
            Ok(value) => value.to_string(),
            Err(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.message),
        }
    }

    const SSH: Port = Port { number: 22, transport: Transport::Tcp };

    #[test]
    fn a_path_names_a_port() {
        for (number, protocol, expected) in [
            ("22", None, Some(SSH)),
            ("22", Some("tcp"), Some(SSH)),
            ("53", Some("udp"), Some(Port { number: 53, transport: Transport::Udp })),
            ("0", None, None),
            ("65536", None, None),
            ("ssh", None, None),
            ("22", Some("sctp"), None),
        ] {
            assert_eq!(Port::parse(number, protocol).ok(), expected, "{number} {protocol:?}");
        }
        assert_eq!(
            Port::parse("ssh", None).unwrap_err().message,
            "port: Invalid value: \"ssh\": must be a number from 1 to 65535"
        );
    }

    #[test]
    fn addresses() {
        let at = |address: &str| json!({"phase": "Running", "interfaces": [{"name": "default", "ipAddress": address}]});
        let paused = json!({"phase": "Running", "conditions": [{"type": "Paused", "status": "True"}],
            "interfaces": [{"name": "default", "ipAddress": "10.0.0.1"}]});
        let ended = |phase: &str| json!({"phase": phase, "interfaces": [{"name": "default", "ipAddress": "10.0.0.1"}]});
        let conflict =
            r#"409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "a": VMI is paused"#;
        let over = r#"409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "a": VMI is not running"#;
        for (status, expected) in [
            (at("10.0.0.1"), "10.0.0.1:22"),
            (at("fd00::1"), "[fd00::1]:22"),
            (at(""), "400 network interface \"default\" has no IP address yet"),
            (json!({"phase": "Running"}), "400 no network interfaces are present"),
            (paused, conflict),
            (ended("Succeeded"), over),
            (ended("Failed"), over),
        ] {
            assert_eq!(
                said(address(&vmi(json!({"name": "default"}), status.clone()), SSH)),
                expected,
                "{status}"
            );
        }
        for (created, expected) in
            [(json!({"created": true}), None), (json!({"created": false}), Some(409)), (json!({}), Some(409))]
        {
            let vm: VirtualMachine = serde_json::from_value(json!({"metadata": {"name": "a"},
                "spec": {"template": {"spec": {"domain": {}}}}, "status": created}))
            .unwrap();
            assert_eq!(started(&vm).err().map(|refusal| refusal.code.as_u16()), expected, "{created}");
        }
    }

    #[test]
    fn a_port_that_is_not_listed_is_named_as_the_likely_cause() {
        let status = json!({"interfaces": [{"name": "default", "ipAddress": "10.0.0.1"}]});
        let hint = ": port 22 isn't listed in spec.domain.devices.interfaces[].ports, and only listed ports are forwarded";
        for (ports, hinted) in [
            (json!([]), true),
            (json!([{"port": 80}]), true),
            (json!([{"port": 22}]), false),
            (json!([{"port": 22, "protocol": "TCP"}]), false),
            (json!([{"port": 22, "protocol": "UDP"}]), true),
        ] {
            let vmi = vmi(json!({"name": "default", "masquerade": {}, "ports": ports}), status.clone());
            let refusal = unanswered(&vmi, SSH, "connection refused");
            let expected = format!(
                "Internal error occurred: dialing VM: connection refused{}",
                if hinted { hint } else { "" }
            );
            assert_eq!((refusal.code.as_u16(), refusal.message), (500, expected), "{ports}");
        }
    }
}
