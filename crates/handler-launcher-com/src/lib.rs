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

mod client;

pub use client::{DialError, Launcher, dial};
