//! A cluster in memory, on which the real planner's plans are tried.
//!
//! Stores objects with uids and resourceVersions, and plays the Deployment, DaemonSet and Job controllers, the kubelet
//! and the version reports as functions of a clock that the caller moves. Never touches anything outside.

pub mod cluster;
mod controllers;
mod operator;
pub mod promise;
pub mod random;
mod say;
mod view;
mod writes;

pub use cluster::{Cluster, Fault};
pub use operator::{Operator, Outcome};
pub use random::Random;
pub use say::say;
pub use writes::WriteError;
