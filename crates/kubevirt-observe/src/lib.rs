//! Reads the world into `kubevirt_rollout::Observed`: for virt-operator, which acts on it, and for virtctl, which
//! shows what would be done.
//!
//! What objects say is read here once for both; only where the objects come from differs. It never writes, but for one
//! dry run, and follows nothing from what it sees.

pub mod ask;
pub mod certificates;
pub mod handle;
pub mod image;
pub mod jobs;
pub mod kinds;
pub mod listed;
pub mod nodes;
pub mod pods;
pub mod reporters;
pub mod secret;
pub mod source;
pub mod strategy;
pub mod world;
pub mod x509;

pub use ask::{Asked, ObserveError};
pub use listed::Listed;
pub use source::Source;
pub use world::world;

/// An error with all of its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
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
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}
