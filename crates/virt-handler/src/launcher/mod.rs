//! The launchers of this node: finding them, listening to them, asking things of them.
//!
//! Never judges what a launcher says; see `vmi`.

pub mod calls;
mod domain;
pub mod link;
pub mod socket;
