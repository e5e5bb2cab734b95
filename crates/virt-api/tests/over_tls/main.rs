//! virt-api as its clients meet it: over real TLS, between an API server and virt-handlers in memory.

#![allow(clippy::unwrap_used)]

mod console;
mod screen;
mod tunnel;
mod viewer;
mod world;
