//! virt-api: admission, subresources and the version gate.

pub mod access;
pub mod admission;
pub mod discovery;
pub mod handler_pod;
pub mod instance;
pub mod lifecycle;
pub mod refusal;
pub mod reporters;
