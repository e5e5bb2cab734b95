//! The stages: one file each, each a function from what is seen to the next safe steps.

pub(crate) mod certificates;
pub(crate) mod crds;
pub(crate) mod finalizer;
pub(crate) mod guard;
pub(crate) mod orphans;
pub(crate) mod rbac;
pub(crate) mod reports;
pub(crate) mod services;
pub(crate) mod stored_versions;
pub(crate) mod strategy;
pub(crate) mod uninstall;
pub(crate) mod webhooks;
pub(crate) mod workloads;
