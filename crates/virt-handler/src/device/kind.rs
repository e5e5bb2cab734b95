//! The devices, what the kubelet is told of them, and when a plugin registers. Pure.

use std::path::{Path, PathBuf};

use handler_launcher_com::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DeviceSpec,
};
use kubevirt_types::labels;
use rustix::io::Errno;

/// A device of the node that launcher pods may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind {
    /// Its short name.
    pub name: &'static str,
    /// The extended resource.
    pub resource: &'static str,
    /// Its path below `/dev`.
    pub path: &'static str,
}

/// Hardware virtualisation.
pub const KVM: DeviceKind = DeviceKind { name: "kvm", resource: labels::DEVICE_KVM, path: "kvm" };
/// Network interfaces in user space.
pub const TUN: DeviceKind = DeviceKind { name: "tun", resource: labels::DEVICE_TUN, path: "net/tun" };

/// What is known of one of our plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginState {
    /// It has not come that far yet, or the kubelet is away.
    Starting,
    /// The node doesn't have the device.
    Absent,
    /// The kubelet knows it.
    Registered,
}

/// Why a plugin makes itself known to the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was not known before.
    First,
    /// The kubelet was restarted, and has forgotten all plugins and their sockets.
    KubeletRestarted,
    /// The kubelet ended its watch: it has dropped this plugin.
    Dropped,
    /// Another handler's plugin has gone, which makes the kubelet write off the resource.
    PeerGone(PathBuf),
    /// Said once more: the kubelet may have been done with an end only after our word.
    Again,
    /// This process took over the node.
    TookOver,
    /// The node says that it has none though the kubelet was told.
    NodeSaysNone,
}

impl Reason {
    /// Whether the kubelet is told a second time, one look later. It first closes the connection of a plugin that
    /// it drops and then writes off the resource, and nothing shows when it is done: a word that comes in between
    /// is lost.
    pub fn is_said_twice(&self) -> bool {
        match self {
            Self::PeerGone(_) | Self::Dropped => true,
            Self::First | Self::KubeletRestarted | Self::Again | Self::TookOver | Self::NodeSaysNone => false,
        }
    }

    /// Whether the plugin's socket must be made anew: a kubelet that starts removes them all.
    pub fn needs_socket(&self) -> bool {
        match self {
            Self::First | Self::KubeletRestarted => true,
            Self::Dropped | Self::PeerGone(_) | Self::Again | Self::TookOver | Self::NodeSaysNone => false,
        }
    }
}

/// Whether the kubelet refuses a plugin because it is connected with that very socket. Older kubelets connect
/// again.
pub fn is_connected(refusal: &str, socket: &str) -> bool {
    refusal.contains("already connected") && refusal.ends_with(&format!("/{socket}"))
}

/// Whether a device can be used, from what opening it said; none when that says nothing of the device.
///
/// The devices that a container may open are limited by its cgroup, and this one asks for none:
/// `EPERM` is that limit's answer and says that the device is there. A process or a node that has
/// no file or memory to spare at the moment has its device all the same.
pub fn is_usable(opened: Result<(), Errno>) -> Option<bool> {
    match opened {
        Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::BUSY) => Some(true),
        Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN) => None,
        Err(_) => Some(false),
    }
}

impl DeviceKind {
    /// The name of the socket of this pod's plugin. Another pod's has another, so that of two
    /// handlers neither takes the other's.
    pub fn socket_name(&self, pod_uid: &str) -> String {
        format!("{}{}.sock", self.socket_prefix(), pod_uid)
    }

    /// What the sockets of all pods' plugins for this device begin with.
    pub fn socket_prefix(&self) -> String {
        format!("kubevirt-{}-", self.name)
    }

    /// Where a container that mounts the host's `/dev` at `host_dev` finds it.
    pub fn seen_at(&self, host_dev: &Path) -> PathBuf {
        host_dev.join(self.path)
    }

    /// All devices as the kubelet counts them: as many as pods may use at a time.
    pub fn devices(&self, count: u32, usable: bool) -> Vec<Device> {
        let health = if usable { "Healthy" } else { "Unhealthy" };
        (0..count)
            .map(|n| Device { id: format!("{}{n}", self.name), health: health.to_owned(), topology: None })
            .collect()
    }

    /// What containers that were given these devices need.
    pub fn allocate(&self, request: &AllocateRequest) -> AllocateResponse {
        let path = Path::new("/dev").join(self.path).to_string_lossy().into_owned();
        let device =
            DeviceSpec { container_path: path.clone(), host_path: path, permissions: "mrw".to_owned() };
        let container = ContainerAllocateResponse { devices: vec![device], ..Default::default() };
        AllocateResponse { container_responses: vec![container; request.container_requests.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handler_launcher_com::deviceplugin::ContainerAllocateRequest;

    #[test]
    fn a_kubelet_that_has_our_socket_is_told_apart_from_one_that_has_anothers() {
        let refusal = "device plugin already connected: /var/lib/kubelet/device-plugins/kubevirt-kvm-a.sock";
        assert!(is_connected(refusal, "kubevirt-kvm-a.sock"));
        assert!(!is_connected(refusal, "kubevirt-kvm-b.sock"));
        assert!(!is_connected("/kubevirt-kvm-a.sock", "kubevirt-kvm-a.sock"));
    }

    #[test]
    fn a_device_that_a_cgroup_hides_is_there_and_a_full_process_says_nothing_of_it() {
        for (opened, usable) in [
            (Ok(()), Some(true)),
            (Err(Errno::PERM), Some(true)),
            (Err(Errno::BUSY), Some(true)),
            (Err(Errno::NOENT), Some(false)),
            (Err(Errno::NXIO), Some(false)),
            (Err(Errno::NODEV), Some(false)),
            (Err(Errno::MFILE), None),
            (Err(Errno::NOMEM), None),
        ] {
            assert_eq!(is_usable(opened), usable, "{opened:?}");
        }
    }

    #[test]
    fn every_container_gets_the_device_and_nothing_else() {
        let request = AllocateRequest {
            container_requests: vec![ContainerAllocateRequest { devices_ids: vec!["tun7".into()] }; 2],
        };
        let response = TUN.allocate(&request);
        assert_eq!(response.container_responses.len(), 2);
        let container = &response.container_responses[1];
        assert_eq!((container.devices[0].host_path.as_str(), container.mounts.len()), ("/dev/net/tun", 0));
    }

    #[test]
    fn ids_are_unique_and_sockets_are_a_pods_own() {
        let devices = KVM.devices(3, true);
        assert_eq!(devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["kvm0", "kvm1", "kvm2"]);
        assert!(KVM.devices(3, false).iter().all(|d| d.health == "Unhealthy"));
        assert_ne!(KVM.socket_name("a"), KVM.socket_name("b"));
        assert!(KVM.socket_name("a").starts_with(&KVM.socket_prefix()));
    }
}
