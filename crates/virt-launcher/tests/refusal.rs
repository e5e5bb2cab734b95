//! A QEMU that refuses: its start has failed, and it doesn't outlive that.
//!
//! QEMU's process is a script, its control connection this test.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use handler_launcher_com::launcher::{DomainPhase, GetDomainRequest, SyncOptions, SyncVirtualMachineRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

const UID: &str = "6fe59d2c-9c0b-4f0e-8a80-0123456789ab";
const SCRIPT: &str = "#!/bin/sh\nexec sleep 600\n";
/// For a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not after {PATIENCE:?}"))
}

/// Speaks QMP until the launcher hangs up; says no to `refused`.
async fn qmp(stream: UnixStream, refused: &str) {
    let (read, mut write) = stream.into_split();
    write.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").await.unwrap();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let command: Value = serde_json::from_str(&line).unwrap();
        let mut answer = match command["execute"].as_str().unwrap() {
            name if name == refused => json!({"error": {"class": "GenericError", "desc": "not today"}}),
            "qom-get" => json!({"return": "pc-q35-10.0-machine"}),
            _ => json!({"return": {}}),
        };
        answer["id"] = command["id"].clone();
        write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
    }
}

async fn refuses(refused: &str) {
    let dir = std::env::temp_dir().join(format!("vlr-{}-{refused}", std::process::id()));
    for part in ["sockets", "private", "disks", "boot"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    for part in ["boot/kernel", "boot/initrd"] {
        std::fs::write(dir.join(part), "x").unwrap();
    }
    let qemu = dir.join("qemu");
    std::fs::write(&qemu, SCRIPT).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _launcher = Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
        .args(["--name", "vm", "--namespace", "default", "--uid", UID, "--kvm-device", "/no/kvm"])
        .args(["--sockets-dir".as_ref(), dir.join("sockets").as_os_str()])
        .args(["--private-dir".as_ref(), dir.join("private").as_os_str()])
        .args(["--ephemeral-disks-dir".as_ref(), dir.join("disks").as_os_str()])
        .args(["--kernel-boot-dir".as_ref(), dir.join("boot").as_os_str()])
        .args(["--termination-log".as_ref(), dir.join("last-words").as_os_str()])
        .args(["--qemu".as_ref(), qemu.as_os_str()])
        .stderr(Stdio::from(std::fs::File::create(dir.join("log")).unwrap()))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let socket = dir.join("sockets/launcher-sock");
    let mut rpc = until("the launcher", async || handler_launcher_com::dial(&socket).await.ok()).await;
    let boot =
        json!({"container": {"image": "x", "kernelPath": "/k", "initrdPath": "/i"}, "kernelArgs": "quiet"});
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "default", "uid": UID},
        "spec": {"domain": {"memory": {"guest": "96Mi"}, "firmware": {"kernelBoot": boot}, "devices": {}}},
    });
    let options = Some(SyncOptions { allow_emulation: true });
    let request = SyncVirtualMachineRequest { vmi_json: vmi.to_string().into_bytes(), options };
    rpc.client.sync_virtual_machine(request).await.unwrap();
    let control = until("QMP", async || UnixStream::connect(dir.join("private/qmp")).await.ok()).await;
    let refused = refused.to_owned();
    tokio::spawn(async move { qmp(control, &refused).await });
    let _serial = until("serial", async || UnixStream::connect(dir.join("private/serial")).await.ok()).await;
    let state = until("the end", async || {
        let state = rpc.client.get_domain(GetDomainRequest {}).await.unwrap().into_inner();
        (state.phase() == DomainPhase::Crashed).then_some(state)
    })
    .await;
    assert_eq!(state.reason, "StartFailed");
    assert!(state.exit_detail.contains("not today"), "{state:?}");
    assert_ne!(state.qemu_pid, 0);
    assert!(!Path::new(&format!("/proc/{}", state.qemu_pid)).exists(), "QEMU lives on: {state:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn one_that_says_no_to_the_machine_query_is_killed() {
    refuses("qom-get").await;
}

#[tokio::test]
async fn one_that_does_not_let_the_cpus_run_is_killed() {
    refuses("cont").await;
}
