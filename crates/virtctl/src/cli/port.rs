//! What a port-forward's arguments mean. The words of a refusal are KubeVirt's.

use std::str::FromStr;

/// Where to forward to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTarget {
    /// Plural name of the resource.
    pub resource: &'static str,
    #[allow(missing_docs)]
    pub name: String,
    /// None for the current one.
    pub namespace: Option<String>,
}

/// A port here and one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedPort {
    #[allow(missing_docs)]
    pub protocol: Protocol,
    /// Here; 0 for any free one.
    pub local: u16,
    /// The guest's.
    pub target: u16,
}

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As it stands in a path.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// An argument that isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PortError {
    #[error("target must contain type and name separated by '/'")]
    NoType,
    #[error("target is not valid with more than two '/'")]
    TooLong,
    #[error("{what} cannot be empty")]
    Empty { what: &'static str },
    #[error("unsupported resource type '{kind}': expected vm or vmi")]
    Type { kind: String },
    #[error("unknown protocol '{protocol}': expected tcp or udp")]
    Protocol { protocol: String },
    #[error("'{port}' is no port: expected a number from {least} to 65535")]
    Number { port: String, least: u16 },
}

impl FromStr for PortTarget {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        if text.is_empty() {
            return Err(PortError::Empty { what: "target" });
        }
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, name, namespace) = match parts.as_slice() {
            [] | [_] => return Err(PortError::NoType),
            [kind, name] => (*kind, *name, None),
            [kind, name, namespace] => (*kind, *name, Some(*namespace)),
            [_, _, _, ..] => return Err(PortError::TooLong),
        };
        if namespace == Some("") {
            return Err(PortError::Empty { what: "namespace" });
        }
        let resource = match kind.to_ascii_lowercase().as_str() {
            "vm" | "vms" | "virtualmachine" | "virtualmachines" => "virtualmachines",
            "vmi" | "vmis" | "virtualmachineinstance" | "virtualmachineinstances" => {
                "virtualmachineinstances"
            }
            _ => return Err(PortError::Type { kind: kind.to_owned() }),
        };
        if name.is_empty() {
            return Err(PortError::Empty { what: "name" });
        }
        Ok(Self { resource, name: name.to_owned(), namespace: namespace.map(str::to_owned) })
    }
}

impl FromStr for ForwardedPort {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (protocol, ports) = match text.split_once('/') {
            None | Some(("tcp", _)) => (Protocol::Tcp, text.strip_prefix("tcp/").unwrap_or(text)),
            Some(("udp", ports)) => (Protocol::Udp, ports),
            Some((other, _)) => return Err(PortError::Protocol { protocol: other.to_owned() }),
        };
        let number = |text: &str, least: u16| match text.parse::<u16>() {
            Ok(port) if port >= least => Ok(port),
            Ok(_) | Err(_) => Err(PortError::Number { port: text.to_owned(), least }),
        };
        match ports.split_once(':') {
            None => number(ports, 1).map(|port| Self { protocol, local: port, target: port }),
            Some(("", target)) => Ok(Self { protocol, local: 0, target: number(target, 1)? }),
            Some((local, target)) => {
                Ok(Self { protocol, local: number(local, 0)?, target: number(target, 1)? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target = |resource, name: &str, namespace: Option<&str>| {
            Ok(PortTarget { resource, name: name.into(), namespace: namespace.map(str::to_owned) })
        };
        for (text, expected) in [
            ("vm/a", target("virtualmachines", "a", None)),
            ("virtualmachineinstances/a/ns", target("virtualmachineinstances", "a", Some("ns"))),
            ("a", Err(PortError::NoType)),
            ("", Err(PortError::Empty { what: "target" })),
            ("vmi/", Err(PortError::Empty { what: "name" })),
            ("vmi/a/", Err(PortError::Empty { what: "namespace" })),
            ("VM/a", target("virtualmachines", "a", None)),
            ("vmi/a/ns/x", Err(PortError::TooLong)),
            ("pod/a", Err(PortError::Type { kind: "pod".into() })),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn ports() {
        let port = |protocol, local, target| Ok(ForwardedPort { protocol, local, target });
        let bad = |port: &str, least| Err(PortError::Number { port: port.into(), least });
        for (text, expected) in [
            ("80", port(Protocol::Tcp, 80, 80)),
            ("tcp/8080:80", port(Protocol::Tcp, 8080, 80)),
            ("udp/53", port(Protocol::Udp, 53, 53)),
            (":22", port(Protocol::Tcp, 0, 22)),
            ("0:22", port(Protocol::Tcp, 0, 22)),
            ("0", bad("0", 1)),
            ("22:0", bad("0", 1)),
            ("22:ssh", bad("ssh", 1)),
            ("x:22", bad("x", 0)),
            ("65536", bad("65536", 1)),
            ("sctp/22", Err(PortError::Protocol { protocol: "sctp".into() })),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
