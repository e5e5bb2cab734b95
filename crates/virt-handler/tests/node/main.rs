//! virt-handler on a node that is a directory: real sockets, real gRPC, real HTTP, no cluster.

mod adoption;
mod console;
mod device_plugin;
mod fake;
