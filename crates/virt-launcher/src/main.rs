//! virt-launcher.

fn main() {}
