//! virt-launcher: see the library.

use std::process::ExitCode;

use clap::Parser;
use virt_launcher::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        None => virt_launcher::run::main(args.run),
        Some(Command::Probe(probe)) => virt_launcher::probe::main(&probe),
        Some(Command::CopySelf { dir }) => virt_launcher::files::copy_self(&dir).map_err(Into::into),
        Some(Command::KernelBoot(boot)) => virt_launcher::files::kernel_boot(&boot).map_err(Into::into),
        Some(Command::ContainerDisk(disk)) => virt_launcher::container_disk::serve::main(&disk),
    };
    done.unwrap_or_else(|err| {
        eprintln!("virt-launcher: {err:#}");
        ExitCode::FAILURE
    })
}
