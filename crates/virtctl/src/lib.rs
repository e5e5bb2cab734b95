//! The command line of people who use virtual machines.
//!
//! It speaks to the API server only, as the user of the kubeconfig, and decides nothing about
//! virtual machines: what is allowed is virt-api's business.

pub mod cli;
mod cluster;
mod console;
mod lifecycle;
mod stream;
mod terminal;
mod update;
mod version;
mod vnc;

use cli::{Command, Invocation, UpdateCommand};
use cluster::Cluster;

/// Runs a command. Says on stderr what went wrong, and returns whether all went well.
pub async fn run(invocation: Invocation) -> bool {
    let Invocation { flags, command } = invocation;
    let cluster = match Cluster::connect(&flags).await {
        Ok(cluster) => cluster,
        Err(_) if matches!(command, Command::Version { client: true }) => {
            version::print_client();
            return true;
        }
        Err(error) => {
            eprintln!("{}", cluster::chain(&error));
            return false;
        }
    };
    let result: anyhow::Result<()> = match &command {
        Command::Console { name, timeout } => {
            console::run(&cluster, name, *timeout).await.map_err(Into::into)
        }
        Command::Vnc(options) => vnc::run(&cluster, options).await.map_err(Into::into),
        Command::Start(options) => lifecycle::start(&cluster, options).await.map_err(Into::into),
        Command::Stop(options) => lifecycle::stop(&cluster, options).await.map_err(Into::into),
        Command::Restart(options) => lifecycle::restart(&cluster, options).await.map_err(Into::into),
        Command::Pause(options) => lifecycle::pause(&cluster, options).await.map_err(Into::into),
        Command::Unpause(options) => lifecycle::unpause(&cluster, options).await.map_err(Into::into),
        Command::Version { client } => version::print(&cluster, *client).await.map_err(Into::into),
        Command::Update { command } => match command {
            UpdateCommand::Watch(options) => update::watch(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Plan(options) => update::plan(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Explain(options) => update::explain(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Retry => update::retry(&cluster).await.map_err(Into::into),
        },
    };
    let Err(error) = result else { return true };
    if let Some(warning) = version::mismatch(&cluster).await {
        eprintln!("{warning}");
    }
    eprintln!("{}", cluster::chain(error.as_ref()));
    false
}
