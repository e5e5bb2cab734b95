//! kubevirt-manifests.
