//! virt-launcher: one pod, one virtual machine.
//!
//! Owns QEMU's process, its serial device and its VNC connection, and reports to
//! virt-handler over `launcher-sock`. Never talks to the API server.
//!
//! Read [`run`] first, then [`guest::life`].

pub mod args;
pub mod console;
pub mod container_disk;
pub mod counts;
pub mod disks;
pub mod domain;
pub mod files;
pub mod guest;
pub mod logs;
pub mod migration;
pub mod paths;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod seed;
pub mod server;
pub mod sessions;
pub mod typed;
pub mod vnc;
