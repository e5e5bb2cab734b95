//! The virt-api binary.

use std::process::ExitCode;

use clap::Parser;
use virt_api::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match virt_api::run::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virt-api: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
