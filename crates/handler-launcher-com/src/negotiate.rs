//! Which protocol version two sides speak. Pure.
//!
//! A launcher lives through many updates of its virt-handler, so both name all versions
//! that they know and take the highest common one.

use thiserror::Error;

/// The protocol versions that this build speaks, on either side.
pub const PROTOCOL_VERSIONS: &[u32] = &[1];

/// What a launcher may be able to do beyond protocol version 1's minimum.
pub mod capability {
    /// PauseVirtualMachine and UnpauseVirtualMachine.
    pub const PAUSE: &str = "pause";
    /// `console-sock` keeps output and resumes at an offset.
    pub const CONSOLE_RESUME: &str = "console-resume";
    /// PrepareMigrationSource and its kin: the guest can be moved while it runs.
    pub const LIVE_MIGRATION: &str = "live-migration";
    /// Screenshot.
    pub const SCREENSHOT: &str = "screenshot";
    /// SoftRebootVirtualMachine.
    pub const SOFT_REBOOT: &str = "soft-reboot";
    /// There is a `vnc-sock`.
    pub const VNC: &str = "vnc";
}

/// Two sides that can't talk.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum NegotiateError {
    /// No version is known to both.
    #[error("no common protocol version: we speak {ours:?}, the other side speaks {theirs:?}")]
    NothingInCommon {
        /// What we speak.
        ours: Vec<u32>,
        /// What the other side said.
        theirs: Vec<u32>,
    },
}

/// The highest version that both know.
pub fn negotiate(ours: &[u32], theirs: &[u32]) -> Result<u32, NegotiateError> {
    ours.iter()
        .copied()
        .filter(|version| theirs.contains(version))
        .max()
        .ok_or_else(|| NegotiateError::NothingInCommon { ours: ours.to_vec(), theirs: theirs.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_wins() {
        for (ours, theirs, want) in [
            (&[1][..], &[1][..], Some(1)),
            (&[1, 2], &[1], Some(1)),
            (&[1], &[2, 1], Some(1)),
            (&[3, 1, 2], &[2, 3, 4], Some(3)),
            (&[1], &[2], None),
            (&[1], &[], None),
            (&[], &[1], None),
        ] {
            assert_eq!(negotiate(ours, theirs).ok(), want, "{ours:?} with {theirs:?}");
        }
    }

    #[test]
    fn a_refusal_names_both_sides() {
        let refusal = negotiate(&[2, 3], &[1]).unwrap_err().to_string();
        assert_eq!(refusal, "no common protocol version: we speak [2, 3], the other side speaks [1]");
    }
}
