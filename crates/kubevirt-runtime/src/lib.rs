//! kubevirt-runtime.
