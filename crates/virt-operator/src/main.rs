//! virt-operator.

fn main() {}
