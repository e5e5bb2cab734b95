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
pub mod image;
pub mod kinds;
pub mod lead;
pub mod metrics;
pub mod observe;
pub mod publish;
pub mod reconcile;
pub mod run;
pub mod strategy;
pub mod webhook;

/// Under this name virt-operator owns fields in server-side apply.
pub const FIELD_MANAGER: &str = "virt-operator";

/// An error with all of its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What the API server said, without the forms in which kube repeats it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}
