//! The common types: our kinds, releases, the feature table, the version gate, labels,
//! conditions and schemas.
//!
//! Pure: no I/O, no clock, no randomness, no client.

pub mod condition;
pub mod feature;
pub mod gate;
mod kind;
pub mod kubevirt;
pub mod labels;
pub mod migration;
pub mod object;
pub mod quantity;
pub mod release;
pub mod schema;
pub mod vm;
pub mod vmi;

pub use kind::{API_VERSION, GROUP, VERSIONS};
pub use kubevirt::{KubeVirt, KubeVirtPhase};
pub use migration::VirtualMachineInstanceMigration;
pub use object::ObjectKey;
pub use quantity::Quantity;
pub use release::Release;
pub use schema::Kind;
pub use vm::{VirtualMachine, VirtualMachineInstanceReplicaSet};
pub use vmi::{VirtualMachineInstance, VmiPhase};
