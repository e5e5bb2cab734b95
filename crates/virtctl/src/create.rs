//! `create vm`: the manifest of a virtual machine, on stdout. Talks to no cluster.

mod cloud_init;
mod disks;

use std::io;
use std::path::{Path, PathBuf};

use kubevirt_types::VirtualMachine;
use kubevirt_types::vm::{VirtualMachineInstanceTemplateSpec, VirtualMachineSpec};
use kubevirt_types::vmi::{
    Cpu, Devices, DomainSpec, Firmware, KernelBoot, KernelBootContainer, Memory, VirtualMachineInstanceSpec,
};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::cli::create::{CreateVmOptions, DataSource};
use crate::terminal::say;

/// How many characters make a name that nobody else has.
const RANDOM_CHARACTERS: usize = 5;

/// There is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("--{flag} is not supported by virtctl v{}: {instead}", env!("CARGO_PKG_VERSION"))]
    Unsupported { flag: &'static str, instead: &'static str },
    #[error("--password-file: can't read {}", path.display())]
    ReadPassword { path: PathBuf, source: io::Error },
    #[error("--password-file: there is no password in {}", path.display())]
    NoPassword { path: PathBuf },
    #[error(transparent)]
    CloudInit(#[from] cloud_init::CloudInitError),
    #[error(transparent)]
    Disks(#[from] disks::DisksError),
    #[error("can't write the manifest")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

pub(crate) fn vm(options: &CreateVmOptions, namespace: Option<&str>) -> Result<(), CreateError> {
    let password = options.cloud_init.password_file.as_deref().map(read_password).transpose()?;
    say(manifest(options, password.as_deref(), namespace, &random_name())?.trim_end());
    for warning in warnings(options) {
        eprintln!("{warning}");
    }
    Ok(())
}

/// The one line of a file.
fn read_password(path: &Path) -> Result<String, CreateError> {
    let path = path.to_owned();
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Err(CreateError::NoPassword { path }),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(CreateError::ReadPassword { path, source }),
    }
}

/// What people may not have meant.
fn warnings(options: &CreateVmOptions) -> Vec<&'static str> {
    let CreateVmOptions { kernel_boot_image, container_disks, cloud_init, .. } = options;
    let is_told = cloud_init.source != Some(DataSource::None);
    let mut warnings = Vec::new();
    if kernel_boot_image.is_none() && container_disks.is_empty() {
        warnings.push(
            "This virtual machine has nothing to boot: name an image with --volume-containerdisk or --kernel-boot-image.",
        );
    }
    if !is_told && cloud_init.says_something() {
        warnings.push("The guest is told nothing of the other cloud-init flags: --cloud-init is none.");
    }
    if is_told && cloud_init.password_file.is_some() {
        warnings.push(
            "The password is in the manifest in clear text: whoever may read the virtual machine can read it.",
        );
    }
    warnings
}

/// The manifest as text. `random` is its name where none is given.
fn manifest(
    options: &CreateVmOptions,
    password: Option<&str>,
    namespace: Option<&str>,
    random: &str,
) -> Result<String, CreateError> {
    if let Some((flag, instead)) = options.unsupported.0 {
        return Err(CreateError::Unsupported { flag, instead });
    }
    Ok(serde_saphyr::to_string(&object(options, password, namespace, random)?)?)
}

fn object(
    options: &CreateVmOptions,
    password: Option<&str>,
    namespace: Option<&str>,
    random: &str,
) -> Result<VirtualMachine, CreateError> {
    let name = options.name.as_deref().unwrap_or(random);
    let cloud_init = cloud_init::source(&options.cloud_init, password)?;
    let (volumes, disks) = disks::disks(&options.container_disks, cloud_init, name)?;
    let kernel_boot = options.kernel_boot_image.as_ref().map(|image| KernelBoot {
        kernel_args: options.kernel_args.clone(),
        container: Some(KernelBootContainer {
            image: image.clone(),
            kernel_path: Some(options.kernel_path.clone()),
            initrd_path: options.initrd_path.clone(),
            ..KernelBootContainer::default()
        }),
    });
    let domain = DomainSpec {
        cpu: Some(Cpu { cores: Some(options.cpu), ..Cpu::default() }),
        memory: Some(Memory { guest: Some(options.memory.clone()) }),
        firmware: kernel_boot.map(|boot| Firmware { kernel_boot: Some(boot), ..Firmware::default() }),
        devices: Devices { disks, ..Devices::default() },
        ..DomainSpec::default()
    };
    let spec = VirtualMachineInstanceSpec {
        domain,
        volumes,
        termination_grace_period_seconds: Some(options.termination_grace_period),
        ..VirtualMachineInstanceSpec::default()
    };
    let mut vm = VirtualMachine {
        spec: VirtualMachineSpec {
            run_strategy: Some(options.run_strategy),
            template: VirtualMachineInstanceTemplateSpec { spec, ..Default::default() },
            ..VirtualMachineSpec::default()
        },
        ..VirtualMachine::default()
    };
    vm.metadata.name = Some(name.to_owned());
    vm.metadata.namespace = namespace.map(str::to_owned);
    Ok(vm)
}

fn random_name() -> String {
    let characters = generate_key().to_ascii_lowercase();
    let random: String =
        characters.chars().filter(char::is_ascii_alphanumeric).take(RANDOM_CHARACTERS).collect();
    format!("vm-{random}")
}

#[cfg(test)]
mod tests;
