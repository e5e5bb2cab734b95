//! kubevirt-sim.
