//! virt-operator: installs, updates, rolls back and removes the control plane.
//!
//! Start reading at `reconcile`: observe, plan, check, apply, status. Every decision is in
//! `kubevirt-rollout`; this crate reads the cluster, carries steps out and serves webhooks.

pub mod announce;
pub mod apply;
pub mod args;
pub mod cache;
pub mod certificates;
pub mod identity;
pub mod lead;
pub mod made;
pub mod metrics;
pub mod observe;
pub mod prober;
pub mod publish;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod strategy;
pub mod webhook;

use kubevirt_observe::{chain, said};

/// Under this name virt-operator owns fields in server-side apply.
pub const FIELD_MANAGER: &str = "virt-operator";
