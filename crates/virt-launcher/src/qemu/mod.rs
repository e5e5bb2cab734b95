//! From a VirtualMachineInstance to QEMU's command line. Pure, but for looking at `/dev/kvm` and `/etc/resolv.conf`.
//!
//! Never starts anything.

mod command_line;
pub mod resolv;
pub mod spec;

use std::path::Path;

use thiserror::Error;

pub use command_line::{Surroundings, command_line};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's emulation of one.
    Tcg,
}

/// Nothing may run the guest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the KVM device can't be opened and emulation isn't allowed: use a node with devices.kubevirt.io/kvm, \
     or set spec.configuration.developerConfiguration.useEmulation in the KubeVirt object"
)]
pub struct NoAccel;

/// Chooses: KVM where it is given, emulation only where it is allowed.
pub fn choose(kvm_opens: bool, allow_emulation: bool) -> Result<Accel, NoAccel> {
    match (kvm_opens, allow_emulation) {
        (true, _) => Ok(Accel::Kvm),
        (false, true) => Ok(Accel::Tcg),
        (false, false) => Err(NoAccel),
    }
}

/// Whether the KVM device was given to this container and is ours to use.
pub fn kvm_opens(device: &Path) -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(device).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_first_emulation_only_if_allowed() {
        assert_eq!(choose(true, false), Ok(Accel::Kvm));
        assert_eq!(choose(true, true), Ok(Accel::Kvm));
        assert_eq!(choose(false, true), Ok(Accel::Tcg));
        assert_eq!(choose(false, false), Err(NoAccel));
        assert!(!kvm_opens(Path::new("/no/such/device")));
    }
}
