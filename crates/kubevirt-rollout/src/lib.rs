//! The rollout: what virt-operator does next, as a pure function of what it sees.
//!
//! `Observed -> plan -> check -> (the operator applies the steps) -> status`. No I/O, no clock, no
//! randomness: `now` is an argument. Nothing is remembered between two calls: the world is looked at
//! again, and the next safe steps are returned.

pub mod observed;
pub mod plan;
pub mod policy;
pub mod step;
pub mod waiting;

pub use observed::Observed;
pub use plan::{Plan, plan};
pub use policy::Policy;
pub use step::{Precondition, Step};
pub use waiting::WaitingOn;
