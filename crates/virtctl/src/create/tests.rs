//! Manifests against goldens, which virt-api's tests admit; and what is refused.

use std::ffi::OsString;
use std::path::Path;

use super::*;
use crate::cli::create::CreateCommand;
use crate::cli::{Command, Invocation, LocalCommand, parse};

/// What is asked for by a command line of `create vm`. A '+' stands for a blank.
fn asked(flags: &str) -> Result<(CreateVmOptions, Option<String>), String> {
    let line = format!("virtctl create vm {flags}");
    let args = line.split_whitespace().map(|word| OsString::from(word.replace('+', " ")));
    let Invocation { flags, command } = parse(args).map_err(|error| error.to_string())?;
    let Command::Local(LocalCommand::Create { command: CreateCommand::Vm(options) }) = command else {
        panic!("{command:?}")
    };
    Ok((*options, flags.namespace))
}

/// What is printed for a command line, or what is wrong with it.
fn printed(flags: &str) -> Result<String, String> {
    let (options, namespace) = asked(flags)?;
    let password = options.cloud_init.password_file.is_some().then_some("no: secret");
    manifest(&options, password, namespace.as_deref(), "vm-abc12").map_err(|error| error.to_string())
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
    let cloud = "--name cloud --run-strategy halted --volume-containerdisk src:registry:5000/data:v1,name:data,bootorder:2 \
        --volume-containerdisk src:registry/debian@sha256:0123,bootorder:1 --cloud-init NoCloud --user debian \
        --password-file secret --ssh-key ssh-ed25519+AAAA+me@home --ssh-key ssh-rsa+BBBB,ecdsa-sha2-nistp256+CCCC";
    golden("vm-cloud.yaml", &printed(cloud).unwrap());
    let base64 = "--volume-containerdisk=src:debian --cloud-init-user-data I2Nsb3VkLWNvbmZpZwo= \
        --cloud-init-network-data dmVyc2lvbjogMgo=";
    golden("vm-base64.yaml", &printed(base64).unwrap());
}

#[test]
fn what_is_printed_is_what_was_meant() {
    let (options, _) = asked("--volume-containerdisk src:a --user yes --password-file secret").unwrap();
    let meant = object(&options, Some("no: secret"), None, "vm-abc12").unwrap();
    let printed = printed("--volume-containerdisk src:a --user yes --password-file secret").unwrap();
    assert_eq!(serde_saphyr::from_str::<VirtualMachine>(&printed).unwrap(), meant);
}

#[test]
fn what_may_not_have_been_meant_is_said() {
    let nothing = "has nothing to boot";
    let table: [(&str, &[&str]); 7] = [
        ("", &[nothing]),
        ("--kernel-boot-image a", &[]),
        ("--volume-containerdisk src:a --user me", &[]),
        ("--volume-containerdisk src:a --cloud-init none", &[]),
        ("--volume-containerdisk src:a --cloud-init none --password-file f", &["--cloud-init is none"]),
        ("--volume-containerdisk src:a --password-file f", &["in clear text"]),
        ("--password-file f", &[nothing, "in clear text"]),
    ];
    for (flags, expected) in table {
        let said = warnings(&asked(flags).unwrap().0);
        assert_eq!(said.len(), expected.len(), "{flags}: {said:?}");
        assert!(said.iter().zip(expected).all(|(said, part)| said.contains(part)), "{flags}: {said:?}");
    }
}

#[test]
fn a_password_is_the_one_line_of_its_file() {
    let directory = std::env::temp_dir().join(format!("virtctl-{}", random_name()));
    std::fs::create_dir(&directory).unwrap();
    let write = |text: &str| {
        let path = directory.join("password");
        std::fs::write(&path, text).unwrap();
        read_password(&path)
    };
    assert_eq!(write(" se cret\n").unwrap(), "se cret");
    assert!(write("\n").unwrap_err().to_string().contains("there is no password in /"));
    assert!(read_password(&directory).unwrap_err().to_string().contains("can't read /"));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let table = [
        ("--name Tick", "a name has at most 63 lower case letters"),
        ("--name a-", "starts and ends with a letter or digit"),
        ("--memory lots", "\"lots\" is not a quantity: expected a number with an optional suffix"),
        ("--memory 0", "must be greater than 0"),
        ("--run-strategy Sometimes", "[possible values: Always, Halted, Manual, RerunOnFailure, Once]"),
        ("--cpu 0", "0 is not in 1..=288"),
        ("--termination-grace-period 31536001", "31536001 is not in 0..=31536000"),
        ("--kernel-boot-image i --kernel-path vmlinuz", "must be the absolute path of a file in the image"),
        ("--initrd-path /initrd", "--kernel-boot-image <IMAGE>"),
        (
            "--instancetype u1.small",
            "--instancetype is not supported by virtctl v0.18.0: there are no instance types and preferences: use \
             --cpu and --memory",
        ),
        ("--infer-instancetype", "--infer-instancetype is not supported"),
        (
            "--volume-pvc=src:a",
            "--volume-pvc is not supported by virtctl v0.18.0: there are container disks (--volume-containerdisk) and \
             cloud-init (--cloud-init); an emptyDisk can be added to the manifest by hand",
        ),
        ("--volume-import type:blank,size:1Gi", "--volume-import is not supported"),
        ("--volume-datasource src:a", "--volume-datasource is not supported"),
        ("--access-cred type:password,src:a", "use --ssh-key, or --user and --password-file"),
        (
            "--volume-containerdisk fedora",
            "\"fedora\" has no colon: allowed are src:IMAGE, name:NAME and bootorder",
        ),
        ("--volume-containerdisk name:a", "src must be specified"),
        ("--volume-containerdisk src:", "src must be specified"),
        (
            "--volume-containerdisk src:a,size:1Gi",
            "unknown param \"size\": allowed are src, name and bootorder",
        ),
        ("--volume-containerdisk src:a,src:b", "src is given twice"),
        ("--volume-containerdisk src:a,name:A", "a name has at most 63 lower case letters"),
        ("--volume-containerdisk src:a,bootorder:0", "bootorder must be greater than 0"),
        ("--volume-containerdisk src:a,bootorder:first", "bootorder \"first\": invalid digit"),
        (
            "--volume-containerdisk src:a,bootorder:1 --volume-containerdisk src:b,bootorder:1",
            "bootorder 1 was specified multiple times",
        ),
        (
            "--volume-containerdisk src:a,name:a --volume-containerdisk src:b,name:a",
            "there is already a volume with name \"a\"",
        ),
        (
            "--volume-containerdisk src:a,name:cloudinitdisk --user me",
            "there is already a volume with name \"cloudinitdisk\"",
        ),
        (
            "--volume-containerdisk src:a --name aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "give it another one with name:NAME",
        ),
        ("--cloud-init configdrive", "[possible values: nocloud, none]"),
        ("--cloud-init-user-data", "a value is required for '--cloud-init-user-data <BASE64>'"),
        ("--cloud-init-user-data YQ== --user me", "cannot be used with"),
        ("--cloud-init-user-data YQ== --password-file f", "cannot be used with"),
        ("--cloud-init-user-data YQ== --ssh-key a", "cannot be used with"),
        ("--cloud-init-user-data %", "--cloud-init-user-data is not base64"),
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
