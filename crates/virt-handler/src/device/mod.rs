//! Device plugins: `/dev/kvm` and `/dev/net/tun` as extended resources of the node.
//!
//! `kind` and `wanted` decide, `server` answers the kubelet, `register` makes the plugin known and keeps it so.

pub mod kind;
pub mod peers;
pub mod register;
pub mod server;
pub mod wanted;
