//! kubevirt-rollout.
