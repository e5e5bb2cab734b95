//! `create vm`: the manifest of a virtual machine, on stdout. Talks to no cluster.

use kubevirt_types::VirtualMachine;
use kubevirt_types::vm::{VirtualMachineInstanceTemplateSpec, VirtualMachineSpec};
use kubevirt_types::vmi::{
    Cpu, DomainSpec, Firmware, KernelBoot, KernelBootContainer, Memory, VirtualMachineInstanceSpec,
};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::cli::create::CreateVmOptions;
use crate::terminal::say;

/// How many characters make a name that nobody else has.
const RANDOM_CHARACTERS: usize = 5;

/// There is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("--{flag} is not supported by virtctl v{}: {instead}", env!("CARGO_PKG_VERSION"))]
    Unsupported { flag: &'static str, instead: &'static str },
    #[error("can't write the manifest")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

pub(crate) fn vm(options: &CreateVmOptions, namespace: Option<&str>) -> Result<(), CreateError> {
    say(manifest(options, namespace, &random_name())?.trim_end());
    if options.kernel_boot_image.is_none() {
        eprintln!("This virtual machine has nothing to boot: name an image with --kernel-boot-image.");
    }
    Ok(())
}

/// The manifest as text. `random` is its name where none is given.
fn manifest(options: &CreateVmOptions, namespace: Option<&str>, random: &str) -> Result<String, CreateError> {
    if let Some((flag, instead)) = options.unsupported.0 {
        return Err(CreateError::Unsupported { flag, instead });
    }
    Ok(serde_saphyr::to_string(&object(options, namespace, random))?)
}

fn object(options: &CreateVmOptions, namespace: Option<&str>, random: &str) -> VirtualMachine {
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
        ..DomainSpec::default()
    };
    let spec = VirtualMachineInstanceSpec {
        domain,
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
    vm.metadata.name = Some(options.name.clone().unwrap_or_else(|| random.to_owned()));
    vm.metadata.namespace = namespace.map(str::to_owned);
    vm
}

fn random_name() -> String {
    let characters = generate_key().to_ascii_lowercase();
    let random: String =
        characters.chars().filter(char::is_ascii_alphanumeric).take(RANDOM_CHARACTERS).collect();
    format!("vm-{random}")
}

#[cfg(test)]
mod tests;
