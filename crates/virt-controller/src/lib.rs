//! virt-controller: a VM gets its instance, an instance its launcher pod, a replica set its
//! instances, a migration its target pod, and each a status that tells how far it is.
//!
//! For each kind a pure `decide` says what to do; [`controller`] looks, asks and carries out. It never
//! talks to a launcher, and leaves an instance's status to virt-handler from `Scheduled` on.

pub mod act;
pub mod args;
pub mod cache;
pub mod children;
pub mod controller;
pub mod decision;
pub mod heartbeats;
pub mod kinds;
pub mod launcher;
pub mod merge;
pub mod metrics;
pub mod migration;
pub mod owner;
pub mod queue;
pub mod queues;
pub mod replicaset;
pub mod run;
pub mod settings;
pub mod vm;
pub mod vmi;

/// The time, in whole seconds as Kubernetes writes times.
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}
