//! The node: what its label and annotation say, and keeping them said.

pub mod ability;
pub mod heartbeat;
