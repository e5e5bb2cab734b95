//! virt-launcher's process, with all that is its own in one directory.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// The uid of the one instance that it runs.
pub const UID: &str = "6fe59d2c-9c0b-4f0e-8a80-0123456789ab";

/// The command that starts it, without KVM. Makes the directories that its pod would have in `dir`.
pub fn virt_launcher(dir: &Path, qemu: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    command.args(["--name", "tick", "--namespace", "default", "--uid", UID, "--kvm-device", "/no/kvm"]);
    for (option, part) in [
        ("--sockets-dir", "sockets"),
        ("--private-dir", "private"),
        ("--ephemeral-disks-dir", "disks"),
        ("--kernel-boot-dir", "boot"),
        ("--container-disks-dir", "images"),
        ("--cloud-init-dir", "cloud-init"),
    ] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
        command.arg(option).arg(dir.join(part));
    }
    command.arg("--termination-log").arg(dir.join("last-words")).arg("--qemu").arg(qemu);
    command.stderr(Stdio::from(std::fs::File::create(dir.join("log")).unwrap())).kill_on_drop(true);
    command
}
