//! `cargo xtask gen|check`: what is generated, and the rules of the house.

mod check;
mod generate;
mod proto;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Generates what is generated, and checks the rules of the house")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes manifests/ and the gRPC code.
    Gen,
    /// Checks the crates' dependency directions, the pure crates, the size of files, and that `gen` changes nothing.
    Check,
}

fn main() -> anyhow::Result<()> {
    let root = generate::workspace_root()?;
    match Arguments::parse().command {
        Command::Gen => generate::write(&root),
        Command::Check => check::run(&root),
    }
}
