//! What virt-handler says to virt-launcher and to the kubelet: gRPC over unix sockets.
//!
//! Owns the messages (`proto/`), the choice of a protocol version, and how a socket is
//! bound and dialled. Never decides what a virtual machine should do.

pub mod negotiate;
pub mod socket;

/// `kubevirt.launcher.v1`: virt-handler and virt-launcher.
pub mod launcher {
    #![allow(clippy::all, missing_docs)]
    include!("generated/kubevirt.launcher.v1.rs");
}

/// `v1beta1`: the kubelet's device plugins.
pub mod deviceplugin {
    #![allow(clippy::all, missing_docs)]
    include!("generated/v1beta1.rs");
}

/// The largest picture of a screen that a launcher sends, in bytes. A guest's video memory is 16 MiB; of the four bytes
/// that it keeps for a pixel a PNG has three, and packs them.
pub const MAX_SCREENSHOT: usize = 16 << 20;
/// The largest message with a picture: its field's tag and length come on top. gRPC's own limit is 4 MiB.
pub const MAX_SCREENSHOT_MESSAGE: usize = MAX_SCREENSHOT + 16;

mod client;

pub use client::{DialError, Launcher, dial};
