//! End-to-end tests and the demo, on a real cluster with real QEMU guests.
//!
//! Owns nothing of the product: it talks to it as a person would, through the Kubernetes API.

mod audit;
mod clock;
mod cluster;
mod component_log;
mod console;
mod coverage;
mod demo;
mod devices;
mod event;
mod following;
mod leaders;
mod migration;
mod node;
mod observer;
mod probe;
mod product;
mod report;
mod rights;
mod suite;
mod talk;
mod tests;
mod ticks;
mod viewer;
mod virtctl;
mod vm;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "End-to-end tests and the demo, on the cluster in KUBECONFIG")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The main job: an update from v0.17.0 to v0.18.0 with guests running and people at work, and its report.
    Demo {
        /// Where the report is written as JSON.
        #[arg(long, default_value = "demo-report.json")]
        report: std::path::PathBuf,
    },
    /// The core of every suite: what `make test` runs.
    Test {
        /// Run only tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// A whole suite.
    Suite {
        /// Its name.
        name: String,
        /// Run only tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// Of tests that try one case after another: only those whose names contain one of these, parted by commas.
        #[arg(long)]
        case: Option<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // Whoever asks says what became of it; many ask until the answer is another.
    let filter = tracing_subscriber::EnvFilter::new("warn,kube_client::client::builder=off");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let outcome = match Arguments::parse().command {
        Command::Demo { report } => demo::run(&report).await,
        Command::Test { only } => suite::run("core", only.as_deref(), None).await,
        Command::Suite { name, only, case } => suite::run(&name, only.as_deref(), case).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}
