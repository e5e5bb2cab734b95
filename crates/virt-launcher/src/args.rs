//! The command line. Owns its grammar and nothing else.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::paths::Paths;

/// Runs one virtual machine in one pod.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// What to do instead of running a virtual machine.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run a virtual machine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do instead of running a virtual machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Exits with 0 when the launcher of this pod answers.
    Probe(ProbeArgs),
    /// Copies this program into a directory, from where another image's container runs it.
    CopySelf {
        /// The directory.
        dir: PathBuf,
    },
    /// Copies a kernel and an initrd out of the image in which it runs.
    KernelBoot(KernelBootArgs),
    /// Gives the disk's image that the image in which it runs holds to the launcher of this pod.
    ContainerDisk(ContainerDiskArgs),
}

/// How to run a virtual machine.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Name of the VirtualMachineInstance.
    #[arg(long, required = true, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Its namespace.
    #[arg(long, required = true, default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// Its uid; any other VirtualMachineInstance is refused.
    #[arg(long, required = true, default_value = "", hide_default_value = true)]
    pub uid: String,
    /// Seconds that the guest has to shut down before it is killed.
    #[arg(long, default_value_t = 30)]
    pub grace_period_seconds: u64,
    /// Run without KVM where KVM is missing.
    #[arg(long)]
    pub allow_emulation: bool,
    /// Where everything is.
    #[command(flatten)]
    pub paths: Paths,
}

/// Whom to probe.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// Directory of the launcher's sockets.
    #[arg(long, hide = true, default_value = crate::paths::SOCKETS)]
    pub sockets_dir: PathBuf,
}

/// What to copy.
#[derive(Debug, clap::Args)]
pub struct KernelBootArgs {
    /// Path of the kernel in the image.
    #[arg(long)]
    pub kernel: PathBuf,
    /// Path of the initrd in the image.
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// The directory to copy to.
    #[arg(long)]
    pub to: PathBuf,
}

/// Which disk's image to give.
#[derive(Debug, clap::Args)]
pub struct ContainerDiskArgs {
    /// Its path: the only file in /disk by default.
    #[arg(long)]
    pub path: Option<PathBuf>,
    /// The socket at which to give it, until told to end. Without one, only looks whether it can be given.
    #[arg(long)]
    pub to: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn running_needs_a_name_and_subcommands_do_not() {
        assert!(Args::try_parse_from(["virt-launcher", "--name", "a"]).is_err());
        let run = ["virt-launcher", "--name", "a", "--namespace", "b", "--uid", "c", "--allow-emulation"];
        let args = Args::try_parse_from(run).unwrap();
        assert!(args.command.is_none() && args.run.allow_emulation);
        assert_eq!(args.run.grace_period_seconds, 30);
        assert!(matches!(
            Args::try_parse_from(["virt-launcher", "probe"]).unwrap().command,
            Some(Command::Probe(_))
        ));
        let copy = ["virt-launcher", "kernel-boot", "--kernel", "/k", "--to", "/d"];
        assert!(matches!(Args::try_parse_from(copy).unwrap().command, Some(Command::KernelBoot(_))));
    }
}
