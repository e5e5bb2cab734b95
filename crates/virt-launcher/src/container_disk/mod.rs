//! Disk images in other people's container images: how they come to QEMU without being copied.
//!
//! A container of the user's image runs our program, which opens the disk's image and gives the
//! open file to whoever connects ([`serve`]). The launcher takes it ([`fetch`]), looks what it is
//! ([`image`]), and QEMU inherits it. Nobody ever writes to it.

pub mod fetch;
pub mod image;
pub mod serve;
