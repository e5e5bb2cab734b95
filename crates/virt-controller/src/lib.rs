//! virt-controller: a VM gets its instance, an instance its launcher pod, a replica set its
//! instances, and each a status that tells how far it is.
//!
//! For each kind a pure `decide` says what to do; [`controller`] reads, asks and writes. It never
//! talks to a launcher, and leaves an instance's status to virt-handler from `Scheduled` on.

pub mod decision;
pub mod launcher;
pub mod merge;
pub mod owner;
pub mod replicaset;
pub mod vm;
pub mod vmi;
