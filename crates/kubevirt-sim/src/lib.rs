//! A cluster in memory, on which the real planner's plans are tried.
//!
//! Stores objects with uids and resourceVersions, and plays the Deployment, DaemonSet, node and Job controllers, the
//! scheduler, every node's kubelet, the virt-handlers' lock and the version reports as functions of a clock that the
//! caller moves. Never touches anything outside.

pub mod cluster;
mod controllers;
pub mod daemon_set;
pub mod deployment;
pub mod kubelet;
mod misfortune;
mod moment;
mod operator;
mod pods;
pub mod promise;
pub mod random;
mod say;
mod sequence;
pub mod small;
mod timeless;
mod users;
mod view;
mod workloads;
mod writes;

pub use cluster::Cluster;
pub use misfortune::Fault;
pub use operator::{Operator, Outcome, Planner};
pub use random::Random;
pub use say::say;
pub use timeless::timeless;
pub use view::{Part, delayed};
pub use writes::WriteError;
