//! What nodes offer to launcher pods, seen from outside: a watch of the nodes.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};

use crate::following::Following;

/// How the names of our devices begin.
const OURS: &str = "devices.kubevirt.io/";

/// A time in which a node offered none of a device, or not all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub node: String,
    pub devices: String,
    pub from: Timestamp,
    /// None while it lasts.
    pub until: Option<Timestamp>,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, devices, from, until } = self;
        write!(f, "{from}: {node} offered no {devices}")?;
        match until {
            Some(until) => write!(f, " for {} ms", until.duration_since(*from).as_millis()),
            None => write!(f, " any more"),
        }
    }
}

/// Watches until it is finished.
pub struct Devices(Following<Vec<Lack>>);

impl Devices {
    /// Starts to watch nodes that offer some.
    pub fn start(client: &Client, nodes: &[String]) -> Self {
        let names = nodes.to_vec();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let nodes: Api<Node> = Api::all(client.clone());
        Self(Following::start(nodes, move |lacks: &mut Vec<Lack>, event| {
            let (Event::Apply(node) | Event::InitApply(node)) = event else { return };
            if !names.contains(&node.name_any()) {
                return;
            }
            let offered = offered(&node);
            known.extend(offered.iter().cloned());
            let missing: Vec<&str> = known.difference(&offered).map(String::as_str).collect();
            let whole = missing.is_empty() && !offered.is_empty();
            see(lacks, Timestamp::now(), &node.name_any(), (!whole).then(|| missing.join(", ")));
        }))
    }

    /// Ends it and returns each time in which a node offered none of a device, or not all devices.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Vec<Lack>> {
        self.0.finish().await
    }
}

/// A node offers all, or some devices are `missing`.
fn see(lacks: &mut Vec<Lack>, now: Timestamp, node: &str, missing: Option<String>) {
    let open = lacks.iter_mut().find(|lack| lack.node == node && lack.until.is_none());
    match (open, missing) {
        (Some(open), None) => open.until = Some(now),
        (None, Some(devices)) => lacks.push(Lack { node: node.to_owned(), devices, from: now, until: None }),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// The devices that a node can give away.
fn offered(node: &Node) -> BTreeSet<String> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
    allocatable
        .into_iter()
        .filter(|(name, quantity)| name.starts_with(OURS) && quantity.0 != "0")
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_lasts_until_all_is_offered_again() {
        let at = |second| Timestamp::from_second(second).expect("it is a time");
        let mut lacks = Vec::new();
        for (second, node, missing) in [
            (1, "a", None),
            (2, "a", Some("kvm")),
            (3, "a", Some("kvm")),
            (4, "b", Some("tun")),
            (5, "a", None),
            (6, "a", None),
        ] {
            see(&mut lacks, at(second), node, missing.map(str::to_owned));
        }
        let lack = |node: &str, devices: &str, from, until: Option<i64>| Lack {
            node: node.into(),
            devices: devices.into(),
            from: at(from),
            until: until.map(at),
        };
        assert_eq!(lacks, [lack("a", "kvm", 2, Some(5)), lack("b", "tun", 4, None)]);
        assert_eq!(lacks[0].to_string(), "1970-01-01T00:00:02Z: a offered no kvm for 3000 ms");
        assert_eq!(lacks[1].to_string(), "1970-01-01T00:00:04Z: b offered no tun any more");
    }
}
