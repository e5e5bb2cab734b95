//! Arguments of `create vm`: checked here, so that what is printed is admitted.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand};
use kubevirt_types::Quantity;
use kubevirt_types::vm::RunStrategy;
use kubevirt_types::vmi::MAX_GRACE_SECONDS;

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
    #[arg(long, value_name = "STRATEGY", default_value = "Always", value_parser = strategies())]
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
    #[allow(missing_docs)]
    #[command(flatten)]
    pub unsupported: Unsupported,
}

/// Flags of KubeVirt's own virtctl that we know, and can't fulfil: the first that was given, and what to do instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsupported(pub Option<(&'static str, &'static str)>);

const NO_INSTANCE_TYPES: &str = "there are no instance types and preferences: use --cpu and --memory";
const NO_DISKS: &str =
    "guests boot a kernel: use --kernel-boot-image; an emptyDisk can be added to the manifest by hand";
const NO_CLOUD_INIT: &str =
    "there are no cloud-init disks: use --kernel-args, or an initrd that sets the guest up";

/// The flags, and what to do instead.
const UNSUPPORTED: [(&str, &str); 19] = [
    ("instancetype", NO_INSTANCE_TYPES),
    ("infer-instancetype", NO_INSTANCE_TYPES),
    ("infer-instancetype-from", NO_INSTANCE_TYPES),
    ("preference", NO_INSTANCE_TYPES),
    ("infer-preference", NO_INSTANCE_TYPES),
    ("infer-preference-from", NO_INSTANCE_TYPES),
    ("volume-containerdisk", NO_DISKS),
    ("volume-import", NO_DISKS),
    ("volume-pvc", NO_DISKS),
    ("volume-blank", NO_DISKS),
    ("volume-sysprep", NO_DISKS),
    ("user", NO_CLOUD_INIT),
    ("password-file", NO_CLOUD_INIT),
    ("ssh-key", NO_CLOUD_INIT),
    ("ga-manage-ssh", NO_CLOUD_INIT),
    ("cloud-init", NO_CLOUD_INIT),
    ("cloud-init-user-data", NO_CLOUD_INIT),
    ("cloud-init-network-data", NO_CLOUD_INIT),
    ("access-cred", "credentials can't be given to a guest that runs: use an initrd that sets it up"),
];

impl Args for Unsupported {
    fn augment_args(command: clap::Command) -> clap::Command {
        UNSUPPORTED.iter().fold(command, |command, (flag, _)| {
            let arg = Arg::new(*flag).long(*flag).num_args(0..=1).action(ArgAction::Append).hide(true);
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Unsupported {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |flag: &str| matches.value_source(flag).is_some();
        Ok(Self(UNSUPPORTED.into_iter().find(|(flag, _)| given(flag))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn strategies() -> impl TypedValueParser<Value = RunStrategy> {
    let names = ["Always", "Halted", "Manual", "RerunOnFailure"];
    let read = |name| serde_json::from_value(serde_json::Value::String(name));
    PossibleValuesParser::new(names).map(move |name| read(name).expect("these are the run strategies"))
}

fn name(text: &str) -> Result<String, String> {
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
