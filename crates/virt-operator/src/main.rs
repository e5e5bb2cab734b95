//! virt-operator.

use std::process::ExitCode;

use clap::Parser;
use virt_operator::args::Args;
use virt_operator::run;

#[tokio::main]
async fn main() -> ExitCode {
    match run::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virt-operator: {:#}", anyhow::Error::new(error));
            ExitCode::FAILURE
        }
    }
}
