//! Arguments.

pub mod create;
pub mod port;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use create::CreateCommand;
use port::{ForwardedPort, PortTarget};

/// The name under which kubectl finds its plugins.
const PLUGIN: &str = "kubectl-virt";

/// One call of the program.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "virtctl", about = "Controls virtual machines", disable_version_flag = true)]
pub struct Invocation {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub flags: ClusterFlags,
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster and namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ClusterFlags {
    /// Namespace; the context's own by default
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Path of the kubeconfig file
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    #[allow(missing_docs)]
    #[command(flatten)]
    Cluster(ClusterCommand),
    #[allow(missing_docs)]
    #[command(flatten)]
    Local(LocalCommand),
}

/// What needs no cluster.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum LocalCommand {
    /// Print a manifest
    Create {
        #[allow(missing_docs)]
        #[command(subcommand)]
        command: CreateCommand,
    },
    /// Print a script that completes virtctl's arguments in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// What is asked of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ClusterCommand {
    /// Connect to the serial console of a virtual machine instance
    Console {
        /// Its name
        #[arg(value_name = "VMI")]
        name: String,
        /// Minutes to wait for the instance to run
        #[arg(long, default_value_t = 5)]
        timeout: u64,
    },
    /// Open the screen of a virtual machine instance
    Vnc(VncOptions),
    /// Start a virtual machine
    Start(StartOptions),
    /// Stop a virtual machine
    Stop(StopOptions),
    /// Restart a virtual machine
    Restart(StopOptions),
    /// Freeze the processors of a virtual machine
    Pause(PauseOptions),
    /// Let a paused virtual machine run on
    Unpause(PauseOptions),
    /// Reboot the guest of a virtual machine instance: its power button is pressed, and it starts again
    SoftReboot(SoftRebootOptions),
    /// Move a running virtual machine to another node
    Migrate(MigrateOptions),
    /// Cancel the migration of a virtual machine: it stays where it is
    MigrateCancel(MigrateCancelOptions),
    /// Forward ports of this machine to a virtual machine or an instance
    PortForward(PortForwardOptions),
    /// Print the versions of client and server
    Version {
        /// Only the client's
        #[arg(short, long)]
        client: bool,
    },
    /// Plan, explain and follow updates of KubeVirt itself
    Update {
        #[allow(missing_docs)]
        #[command(subcommand)]
        command: UpdateCommand,
    },
}

/// Options of `vnc`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct VncOptions {
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Option<VncCommand>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub screen: Option<ScreenOptions>,
}

/// What else there is to do with a screen.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum VncCommand {
    /// Write a picture of the screen of a virtual machine instance, a PNG, to a file
    Screenshot(ScreenshotOptions),
}

/// Options of `vnc screenshot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScreenshotOptions {
    /// Name of the instance
    #[arg(value_name = "VMI")]
    pub name: String,
    /// The file to write; - is the standard output
    #[arg(short, long)]
    pub file: PathBuf,
    /// Move the pointer before, to wake a screen that has turned itself off
    #[arg(short, long)]
    pub move_cursor: bool,
}

/// Options of `vnc` without a subcommand.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScreenOptions {
    /// Name of the instance
    #[arg(value_name = "VMI")]
    pub name: String,
    /// Start no viewer: print the port and wait for one
    #[arg(long)]
    pub proxy_only: bool,
    /// Local port; any free one by default
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Local address
    #[arg(long, default_value = "127.0.0.1")]
    pub address: String,
    /// Fail if somebody else has the screen open
    #[arg(long)]
    pub preserve_session: bool,
    /// The viewer to start; the first one found by default
    #[arg(long)]
    pub vnc_type: Option<VncType>,
    /// Path of the viewer
    #[arg(long)]
    pub vnc_path: Option<PathBuf>,
}

/// A kind of viewer, which says what arguments it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VncType {
    /// virt-viewer's remote-viewer
    RemoteViewer,
    /// TigerVNC
    Tiger,
    /// RealVNC
    Real,
    /// Chicken of the VNC
    Chicken,
}

/// Options of `start`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StartOptions {
    /// Name of the virtual machine
    #[arg(value_name = "VM")]
    pub name: String,
    /// Start it paused
    #[arg(long)]
    pub paused: bool,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `stop` and `restart`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StopOptions {
    /// Name of the virtual machine
    #[arg(value_name = "VM")]
    pub name: String,
    /// Don't wait for the guest; needs --grace-period
    #[arg(long)]
    pub force: bool,
    /// Seconds that the guest gets to shut down; needs --force
    #[arg(long)]
    pub grace_period: Option<i64>,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `pause` and `unpause`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PauseOptions {
    /// What the name names
    #[arg(value_name = "TYPE")]
    pub kind: MachineKind,
    /// The name
    pub name: String,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `soft-reboot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SoftRebootOptions {
    /// Name of the instance
    #[arg(value_name = "VMI")]
    pub name: String,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MigrateOptions {
    /// Name of the virtual machine
    #[arg(value_name = "VM")]
    pub name: String,
    /// Labels that the node must have to which it moves, beyond what the virtual machine asks for
    #[arg(long = "addedNodeSelector", alias = "added-node-selector", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub added_node_selector: Vec<(String, String)>,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `port-forward`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PortForwardOptions {
    /// What to forward to: vm or vmi, its name, and its namespace where it isn't the current one
    #[arg(value_name = "TYPE/NAME[/NAMESPACE]", value_parser = str::parse::<PortTarget>)]
    pub target: PortTarget,
    /// The ports: here, and there where it is another one; tcp or udp
    #[arg(value_name = "[PROTOCOL/]LOCALPORT[:TARGETPORT]", required = true, value_parser = str::parse::<ForwardedPort>)]
    pub ports: Vec<ForwardedPort>,
    /// The address of this machine to listen at
    #[arg(long, default_value = "127.0.0.1")]
    pub address: String,
    /// Forward standard input and output to one port, instead of listening
    #[arg(long)]
    pub stdio: bool,
}

/// Options of `migrate-cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MigrateCancelOptions {
    /// Name of the virtual machine
    #[arg(value_name = "VM")]
    pub name: String,
    /// Only check the request
    #[arg(long)]
    pub dry_run: bool,
}

/// A virtual machine, or an instance of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MachineKind {
    /// A VirtualMachine
    #[value(alias = "virtualmachine")]
    Vm,
    /// A VirtualMachineInstance
    #[value(alias = "virtualmachineinstance")]
    Vmi,
}

/// What to do about updates.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum UpdateCommand {
    /// Show the progress of each component until the update is over
    Watch(WatchOptions),
    /// Show what would be done next, in which order, and what is waited for; changes nothing
    Plan(PlanOptions),
    /// Say on one line what goes on, what is wrong, and what happens next
    Explain(ExplainOptions),
    /// Let a version that has failed be tried again
    Retry,
    /// Show what an update was like: how long each part took, what failed, and the longest gaps
    Report(ReportOptions),
}

/// Options of `update report`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReportOptions {
    /// The report of this name, as in status.history of the KubeVirt object
    #[arg(long, conflicts_with = "index")]
    pub name: Option<String>,
    /// The report of the n-th last update: 1 is the last one
    #[arg(long, default_value_t = 1)]
    pub index: usize,
    /// Print the whole report instead of a table
    #[arg(short, long)]
    pub output: Option<Output>,
}

/// Options of `update plan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct PlanOptions {
    /// Plan as if spec.imageTag were this
    #[arg(long, value_name = "TAG")]
    pub image_tag: Option<String>,
    /// Print a document instead of a table
    #[arg(short, long)]
    pub output: Option<Output>,
}

/// Options of `update explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ExplainOptions {
    /// Print a document instead of a line
    #[arg(short, long)]
    pub output: Option<Output>,
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Options of `update watch`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WatchOptions {
    /// Give up after this time, such as 90s, 30m or 1h
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Parses arguments. Called as `kubectl-virt` the usage speaks of `kubectl virt`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().and_then(|name| Path::new(name).file_stem());
    let command = match called {
        Some(name) if name == PLUGIN => Invocation::command().name("kubectl virt").bin_name("kubectl virt"),
        Some(_) | None => Invocation::command(),
    };
    Invocation::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// The script with which a shell completes our arguments.
pub fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Invocation::command(), "virtctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is no label: expected KEY=VALUE")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let allowed = || format!("{text:?} is no duration: expected a number with unit s, m or h, such as 30m");
    let (number, seconds) = match text.char_indices().next_back() {
        Some((end, 's')) => (&text[..end], 1),
        Some((end, 'm')) => (&text[..end], 60),
        Some((end, 'h')) => (&text[..end], 3600),
        Some(_) | None => return Err(allowed()),
    };
    let number: u64 = number.parse().map_err(|_| allowed())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(allowed)
}

#[cfg(test)]
mod tests;
