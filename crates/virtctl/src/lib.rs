//! The command line of people who use virtual machines.
//!
//! It speaks to the API server only, as the user of the kubeconfig, and decides nothing about
//! virtual machines: what is allowed is virt-api's business.

pub mod cli;
mod cluster;
mod console;
mod create;
mod lifecycle;
mod migrate;
mod port_forward;
mod stream;
mod terminal;
mod update;
mod version;
mod vnc;

use cli::create::CreateCommand;
use cli::{ClusterCommand, Command, Invocation, LocalCommand, UpdateCommand};
use cluster::Cluster;

/// Runs a command. Says on stderr what went wrong, and returns whether all went well.
pub async fn run(invocation: Invocation) -> bool {
    let Invocation { flags, command } = invocation;
    let command = match command {
        Command::Cluster(command) => command,
        Command::Local(LocalCommand::Completion { shell }) => {
            terminal::say(cli::completion(shell).trim_end());
            return true;
        }
        Command::Local(LocalCommand::Create { command: CreateCommand::Vm(options) }) => {
            let created = create::vm(&options, flags.namespace.as_deref());
            return created.map_err(|error| eprintln!("{}", cluster::chain(&error))).is_ok();
        }
    };
    let cluster = match Cluster::connect(&flags).await {
        Ok(cluster) => cluster,
        Err(_) if matches!(command, ClusterCommand::Version { client: true }) => {
            version::print_client();
            return true;
        }
        Err(error) => {
            eprintln!("{}", cluster::chain(&error));
            return false;
        }
    };
    let result: anyhow::Result<()> = match &command {
        ClusterCommand::Console { name, timeout } => {
            console::run(&cluster, name, *timeout).await.map_err(Into::into)
        }
        ClusterCommand::Vnc(options) => vnc::run(&cluster, options).await.map_err(Into::into),
        ClusterCommand::Start(options) => lifecycle::start(&cluster, options).await.map_err(Into::into),
        ClusterCommand::Stop(options) => lifecycle::stop(&cluster, options).await.map_err(Into::into),
        ClusterCommand::Restart(options) => lifecycle::restart(&cluster, options).await.map_err(Into::into),
        ClusterCommand::Pause(options) => lifecycle::pause(&cluster, options).await.map_err(Into::into),
        ClusterCommand::Unpause(options) => lifecycle::unpause(&cluster, options).await.map_err(Into::into),
        ClusterCommand::SoftReboot(options) => {
            lifecycle::soft_reboot(&cluster, options).await.map_err(Into::into)
        }
        ClusterCommand::Migrate(options) => migrate::begin(&cluster, options).await.map_err(Into::into),
        ClusterCommand::MigrateCancel(options) => {
            migrate::cancel(&cluster, options).await.map_err(Into::into)
        }
        ClusterCommand::PortForward(options) => {
            port_forward::run(&cluster, options).await.map_err(Into::into)
        }
        ClusterCommand::Version { client } => version::print(&cluster, *client).await.map_err(Into::into),
        ClusterCommand::Update { command } => match command {
            UpdateCommand::Watch(options) => update::watch(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Plan(options) => update::plan(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Explain(options) => update::explain(&cluster, options).await.map_err(Into::into),
            UpdateCommand::Report(options) => update::report(&cluster, options).await.map_err(Into::into),
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
