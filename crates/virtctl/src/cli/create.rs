//! Arguments of `create vm`: checked here, so that what is printed is admitted.

mod cloud_init;
mod unsupported;
mod volume;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use kubevirt_types::Quantity;
use kubevirt_types::vm::RunStrategy;
use kubevirt_types::vmi::MAX_GRACE_SECONDS;

pub use cloud_init::{CloudInitOptions, DataSource};
pub use unsupported::Unsupported;
pub use volume::ContainerDisk;

/// The run strategies, by their names.
const STRATEGIES: [(&str, RunStrategy); 5] = [
    ("Always", RunStrategy::Always),
    ("Halted", RunStrategy::Halted),
    ("Manual", RunStrategy::Manual),
    ("RerunOnFailure", RunStrategy::RerunOnFailure),
    ("Once", RunStrategy::Once),
];

/// What to write a manifest of.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CreateCommand {
    /// Print the manifest of a virtual machine, for `kubectl create -f -`
    Vm(Box<CreateVmOptions>),
}

/// Options of `create vm`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CreateVmOptions {
    /// Name of the virtual machine; a random one by default
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
    /// When it runs
    #[arg(long, value_name = "STRATEGY", default_value = "Always", ignore_case = true, value_parser = strategies())]
    pub run_strategy: RunStrategy,
    /// Memory of the guest
    #[arg(long, value_name = "QUANTITY", default_value = "512Mi", value_parser = memory)]
    pub memory: Quantity,
    /// Virtual CPUs
    #[arg(long, value_name = "CORES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=288))]
    pub cpu: u32,
    /// Seconds that the guest gets to shut down
    #[arg(long, value_name = "SECONDS", default_value_t = 180,
        value_parser = clap::value_parser!(i64).range(0..=MAX_GRACE_SECONDS))]
    pub termination_grace_period: i64,
    /// Container image with the kernel to boot
    #[arg(long, value_name = "IMAGE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub kernel_boot_image: Option<String>,
    /// Path of the kernel in that image
    #[arg(long, value_name = "PATH", default_value = "/boot/vmlinuz", value_parser = path_in_image)]
    pub kernel_path: String,
    /// Path of the initrd in that image; none by default
    #[arg(long, value_name = "PATH", requires = "kernel_boot_image", value_parser = path_in_image)]
    pub initrd_path: Option<String>,
    /// The kernel's command line
    #[arg(long, value_name = "ARGS", requires = "kernel_boot_image", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,
    /// Container image with a disk's image; can be given more than once, and the first disk boots where none has a
    /// bootorder
    #[arg(long = "volume-containerdisk", value_name = "src:IMAGE[,name:NAME][,bootorder:NUMBER]",
        value_parser = volume::container_disk)]
    pub container_disks: Vec<ContainerDisk>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub cloud_init: CloudInitOptions,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub unsupported: Unsupported,
}

fn strategies() -> impl TypedValueParser<Value = RunStrategy> {
    let read = |name: String| STRATEGIES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
    PossibleValuesParser::new(STRATEGIES.map(|(name, _)| name))
        .map(move |name| read(name).expect("the parser knows no others").1)
}

/// A name of an object or of a volume.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    let why = "a name has at most 63 lower case letters, digits and '-', and starts and ends with a letter or digit";
    if fits { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

fn memory(text: &str) -> Result<Quantity, String> {
    let quantity = Quantity(text.to_owned());
    match quantity.millis() {
        Ok(1..) => Ok(quantity),
        Ok(_) => Err("must be greater than 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn path_in_image(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && !text.ends_with('/') && text.split('/').all(|part| part != "..");
    let why = "must be the absolute path of a file in the image, without '..'";
    if fits { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}
