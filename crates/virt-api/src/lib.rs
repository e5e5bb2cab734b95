//! virt-api: admission, subresources and the version gate.

pub mod admission;
pub mod refusal;
