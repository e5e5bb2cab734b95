//! virt-operator.
