//! One VMI: what is known of it, what to do with it, and what its status should say.
//!
//! The I/O around these decisions is in `control` and `link`.

pub mod decide;
pub mod knowledge;
pub mod migration;
pub mod owner;
pub mod status;

#[cfg(test)]
mod decide_tests;
#[cfg(test)]
mod status_tests;
