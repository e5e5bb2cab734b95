//! Makes the gRPC code of `handler-launcher-com` from its `.proto` files.
//!
//! Owns `crates/handler-launcher-com/src/generated/`. The result is committed, so a build
//! needs no protobuf compiler, and a change on the wire is seen in a review.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The files, relative to the crate's `proto/`. Each makes `<package>.rs`.
const PROTOS: [&str; 2] = ["launcher.proto", "deviceplugin.proto"];

/// Compiles the `.proto` files of the checkout at `root` and formats what comes out.
pub fn generate(root: &Path) -> Result<()> {
    let home = root.join("crates/handler-launcher-com");
    let out = home.join("src/generated");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let descriptors = protox::compile(PROTOS, [home.join("proto")]).context("compiling the .proto files")?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .with_context(|| format!("generating into {}", out.display()))?;
    format_all(root, &out)
}

/// Formats by the house's rules, so that formatting the workspace changes nothing here.
fn format_all(root: &Path, out: &Path) -> Result<()> {
    for entry in std::fs::read_dir(out).with_context(|| format!("listing {}", out.display()))? {
        let path = entry?.path();
        let status = Command::new("rustfmt")
            .args(["--edition", "2024", "--config-path"])
            .arg(root)
            .arg(&path)
            .status()
            .context("running rustfmt")?;
        ensure!(status.success(), "rustfmt of {} ended with {status}", path.display());
    }
    Ok(())
}
