//! virt-controller's process.

use std::process::ExitCode;

use clap::Parser;
use virt_controller::{args::Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    kubevirt_runtime::logging::init(run::COMPONENT, args.verbosity);
    match run::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "virt-controller can't go on"
            );
            ExitCode::FAILURE
        }
    }
}
