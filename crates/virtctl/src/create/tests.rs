//! Manifests against goldens, which virt-api's tests admit; and what is refused.

use std::ffi::OsString;
use std::path::Path;

use super::*;
use crate::cli::create::CreateCommand;
use crate::cli::{Command, Invocation, LocalCommand, parse};

/// What is printed for a command line of `create vm`, or what is wrong with it.
fn printed(flags: &str) -> Result<String, String> {
    let line = format!("virtctl create vm {flags}");
    let args = line.split_whitespace().map(|word| OsString::from(word.replace('+', " ")));
    let Invocation { flags, command } = parse(args).map_err(|error| error.to_string())?;
    let Command::Local(LocalCommand::Create { command: CreateCommand::Vm(options) }) = command else {
        panic!("{command:?}")
    };
    manifest(&options, flags.namespace.as_deref(), "vm-abc12").map_err(|error| error.to_string())
}

/// `UPDATE_GOLDENS=1 cargo test -p virtctl` writes them again.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "{name}");
}

#[test]
fn goldens() {
    golden("vm-plain.yaml", &printed("").unwrap());
    let everything = "-n team-a --name tick --run-strategy Manual --memory 96Mi --cpu 2 \
        --termination-grace-period 0 --kernel-boot-image kubevirt/tick-guest:v0.18.0 --kernel-path /vmlinuz \
        --initrd-path /boot/initramfs.img --kernel-args console=ttyS0+quiet";
    golden("vm-everything.yaml", &printed(everything).unwrap());
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let table = [
        ("--name Tick", "a name has at most 63 lower case letters"),
        ("--name a-", "starts and ends with a letter or digit"),
        ("--memory lots", "\"lots\" is not a quantity: expected a number with an optional suffix"),
        ("--memory 0", "must be greater than 0"),
        ("--run-strategy Sometimes", "[possible values: Always, Halted, Manual, RerunOnFailure]"),
        ("--cpu 0", "0 is not in 1..=288"),
        ("--termination-grace-period 31536001", "31536001 is not in 0..=31536000"),
        ("--kernel-boot-image i --kernel-path vmlinuz", "must be the absolute path of a file in the image"),
        ("--initrd-path /initrd", "--kernel-boot-image <IMAGE>"),
        (
            "--instancetype u1.small",
            "--instancetype is not supported by virtctl v0.18.0: there are no instance types and preferences: use \
             --cpu and --memory",
        ),
        ("--volume-containerdisk=src:fedora:latest", "guests boot a kernel: use --kernel-boot-image"),
        ("--infer-instancetype", "--infer-instancetype is not supported"),
        ("--cloud-init noCloud", "there are no cloud-init disks"),
        ("--access-cred type:password,src:a", "use an initrd that sets it up"),
    ];
    for (flags, expected) in table {
        let refused = printed(flags).unwrap_err();
        assert!(refused.contains(expected), "{flags}: {refused}");
    }
}

#[test]
fn random_names_are_names() {
    let name = random_name();
    assert_ne!(name, random_name());
    let rest = name.strip_prefix("vm-").unwrap();
    assert!(rest.len() == 5 && rest.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{name}");
}
