//! virt-api: admission, subresources and the version gate.
//!
//! Decisions are pure functions in modules of their own ([`admission`], [`access`], [`lifecycle`],
//! [`instance`], [`portforward`], [`handler_pod`], [`discovery`]); the routes only read, decide and do.

pub mod access;
pub mod admission;
pub mod app;
pub mod args;
pub mod cluster;
mod datagrams;
pub mod discovery;
pub mod handler;
pub mod handler_pod;
pub mod instance;
pub mod lifecycle;
pub mod metrics;
pub mod portforward;
pub mod refusal;
pub mod run;
pub mod server;
pub mod session;
pub mod watch;
