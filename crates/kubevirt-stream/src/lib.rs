//! kubevirt-stream.
