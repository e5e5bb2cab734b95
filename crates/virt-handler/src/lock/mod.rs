//! Who acts on this node: of two virt-handlers the one that holds the node's lock.
//!
//! `state` decides, `file` talks to the kernel. The lock is an flock: the kernel takes it back
//! from a process that dies, however it dies, so there is nothing to expire and nobody to ask.

pub mod file;
pub mod state;
