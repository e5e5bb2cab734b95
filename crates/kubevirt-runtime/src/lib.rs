//! Everything that a server of ours needs and that is no one component's own: its release, logs,
//! Kubernetes client, leader lease, version report, health, TLS, drain.
//!
//! It decides nothing about virtual machines or updates.

pub mod client;
pub mod health;
pub mod lease;
pub mod logging;
pub mod pod;
mod process;
mod release;
pub mod report;
pub mod serve;
pub mod shutdown;
pub mod tls;

pub use release::release;
