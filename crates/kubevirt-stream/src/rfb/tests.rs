//! A server like QEMU's and a viewer that believes nothing, in memory, with a splice between them.

mod cuts;
mod messages;
mod qemu;
mod viewer;
