//! virt-handler: one per node, two while it is replaced.
//!
//! Owns the status of VMIs from `Scheduled` on, the node's label and heartbeat, and the device
//! plugins. It finds everything out by looking: a handler that is killed at any line is replaced
//! by one that goes on.

pub mod args;
pub mod cluster;
pub mod console;
pub mod control;
pub mod device;
pub mod handler;
pub mod launcher;
pub mod life;
pub mod lock;
pub mod metrics;
pub mod node;
pub mod vmi;
