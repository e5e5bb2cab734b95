//! virt-api.
