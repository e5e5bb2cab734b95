//! Where everything of a launcher is. The defaults are the pod's volumes; tests name others.

use std::path::PathBuf;

/// Sockets that virt-handler reaches.
pub const SOCKETS: &str = "/var/run/kubevirt/sockets";
/// The kernel's name in the kernel boot directory.
pub const KERNEL: &str = "kernel";
/// The initrd's name in the kernel boot directory.
pub const INITRD: &str = "initrd";

/// Where everything is.
#[derive(Debug, Clone, clap::Args)]
pub struct Paths {
    /// Sockets that virt-handler reaches.
    #[arg(long = "sockets-dir", hide = true, default_value = SOCKETS)]
    pub sockets: PathBuf,
    /// Sockets between the launcher and QEMU.
    #[arg(long = "private-dir", hide = true, default_value = "/var/run/kubevirt-private")]
    pub private: PathBuf,
    /// Disks that live as long as the pod.
    #[arg(long = "ephemeral-disks-dir", hide = true, default_value = "/var/run/kubevirt-ephemeral-disks")]
    pub ephemeral_disks: PathBuf,
    /// The user's kernel and initrd.
    #[arg(long = "kernel-boot-dir", hide = true, default_value = "/var/run/kubevirt/kernel-boot")]
    pub kernel_boot: PathBuf,
    /// Sockets at which images of container disks are to be had.
    #[arg(long = "container-disks-dir", hide = true, default_value = "/var/run/kubevirt/disks")]
    pub container_disks: PathBuf,
    /// What Secrets say to cloud-init.
    #[arg(long = "cloud-init-dir", hide = true, default_value = "/var/run/kubevirt/cloud-init")]
    pub cloud_init: PathBuf,
    /// The emulator.
    #[arg(long = "qemu", hide = true, default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
    /// What makes disk images.
    #[arg(long = "qemu-img", hide = true, default_value = "qemu-img")]
    pub qemu_img: PathBuf,
    /// The KVM device.
    #[arg(long = "kvm-device", hide = true, default_value = "/dev/kvm")]
    pub kvm: PathBuf,
    /// Where the kubelet picks up the container's last words.
    #[arg(long = "termination-log", hide = true, default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

impl Paths {
    /// gRPC, for virt-handler.
    pub fn launcher_socket(&self) -> PathBuf {
        self.sockets.join("launcher-sock")
    }

    /// The serial console, for virt-handler.
    pub fn console_socket(&self) -> PathBuf {
        self.sockets.join("console-sock")
    }

    /// The screen, for virt-handler.
    pub fn vnc_socket(&self) -> PathBuf {
        self.sockets.join("vnc-sock")
    }

    /// QEMU's control: QEMU connects to us.
    pub fn qmp(&self) -> PathBuf {
        self.private.join("qmp")
    }

    /// QEMU's VNC server: we connect to QEMU.
    pub fn vnc(&self) -> PathBuf {
        self.private.join("vnc")
    }

    /// A picture of the screen: QEMU writes it for us.
    pub fn screenshot(&self) -> PathBuf {
        self.private.join("screen.png")
    }

    /// A migration's stream: between QEMU and us.
    pub fn migration(&self) -> PathBuf {
        self.private.join("migration")
    }

    /// The user's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.kernel_boot.join(KERNEL)
    }

    /// The user's initrd.
    pub fn initrd(&self) -> PathBuf {
        self.kernel_boot.join(INITRD)
    }

    /// The file behind an empty disk.
    pub fn empty_disk(&self, volume: &str) -> PathBuf {
        self.ephemeral_disks.join(format!("{volume}.raw"))
    }

    /// What the guest writes to a container disk.
    pub fn overlay(&self, volume: &str) -> PathBuf {
        self.ephemeral_disks.join(format!("{volume}.qcow2"))
    }

    /// The disk from which cloud-init reads.
    pub fn seed(&self, volume: &str) -> PathBuf {
        self.ephemeral_disks.join(format!("{volume}.seed"))
    }

    /// The socket at which a container disk's image is to be had.
    pub fn container_disk(&self, volume: &str) -> PathBuf {
        self.container_disks.join(volume)
    }

    /// A Secret for cloud-init: the directory with its keys.
    pub fn cloud_init(&self, volume: &str, document: &str) -> PathBuf {
        self.cloud_init.join(volume).join(document)
    }
}
