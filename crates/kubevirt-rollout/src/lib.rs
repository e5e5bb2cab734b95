//! The rollout: what virt-operator does next, as a pure function of what it sees.
//!
//! `Observed -> plan -> check -> (the operator applies the steps) -> status`. No I/O, no clock, no
//! randomness: `now` is an argument. Nothing is remembered between two calls: the world is looked at
//! again, and the next safe steps are returned.

pub mod admission;
mod canary;
mod context;
mod drift;
pub mod duration;
pub mod explain;
mod failure;
#[cfg(test)]
mod fixture;
pub mod invariants;
pub mod observed;
pub mod order;
pub mod plan;
pub mod policy;
mod progress;
pub mod report;
mod stage;
mod stages;
pub mod status;
pub mod step;
pub mod target;
mod trouble;
pub mod waiting;

pub use canary::Canary;
pub use drift::is_subset;
pub use invariants::check;
pub use observed::Observed;
pub use plan::{Direction, Make, Plan, Stage, plan, plan_with};
pub use policy::Policy;
pub use stage::guard::{GUARD, GUARD_PROBE};
pub use status::status;
pub use step::{Precondition, Step};
pub use waiting::{Cause, WaitingOn};
