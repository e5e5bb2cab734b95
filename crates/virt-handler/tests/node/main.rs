//! virt-handler on a node that is a directory: real sockets, real gRPC, real HTTP, no cluster.

#[cfg(test)]
mod adoption;
#[cfg(test)]
mod console;
#[cfg(test)]
mod device_plugin;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod migration;
