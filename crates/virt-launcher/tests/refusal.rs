//! A QEMU that refuses: its start has failed, and it doesn't outlive that.
//!
//! QEMU's process is a script, its control connection this test.

#![allow(clippy::unwrap_used)]

mod process;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handler_launcher_com::launcher::{
    DomainPhase, DomainState, GetDomainRequest, ShutdownVirtualMachineRequest, SyncOptions,
    SyncVirtualMachineRequest,
};
use process::{UID, virt_launcher};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;

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

/// A launcher in a directory of its own.
struct Running {
    dir: PathBuf,
    rpc: handler_launcher_com::Launcher,
    _process: Child,
}

async fn launch(name: &str) -> Running {
    let dir = std::env::temp_dir().join(format!("vlr-{}-{name}", std::process::id()));
    let qemu = dir.join("qemu");
    let mut command = virt_launcher(&dir, &qemu);
    for part in ["boot/kernel", "boot/initrd"] {
        std::fs::write(dir.join(part), "x").unwrap();
    }
    std::fs::write(&qemu, SCRIPT).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let process = command.spawn().unwrap();
    let socket = dir.join("sockets/launcher-sock");
    let rpc = until("the launcher", async || handler_launcher_com::dial(&socket).await.ok()).await;
    Running { dir, rpc, _process: process }
}

impl Running {
    /// Sends an instance with these disks.
    async fn sync(&mut self, disks: Value, volumes: Value) {
        let boot = json!({"container": {"image": "x", "kernelPath": "/k", "initrdPath": "/i"}, "kernelArgs": "quiet"});
        let domain = json!({"memory": {"guest": "96Mi"}, "firmware": {"kernelBoot": boot}, "devices": {"disks": disks}});
        let vmi = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "vm", "namespace": "default", "uid": UID},
            "spec": {"domain": domain, "volumes": volumes},
        });
        let options = Some(SyncOptions { allow_emulation: true });
        let request = SyncVirtualMachineRequest { vmi_json: vmi.to_string().into_bytes(), options };
        self.rpc.client.sync_virtual_machine(request).await.unwrap();
    }

    async fn reaches(&mut self, phase: DomainPhase) -> DomainState {
        until("the end", async || {
            let state = self.rpc.client.get_domain(GetDomainRequest {}).await.unwrap().into_inner();
            (state.phase() == phase).then_some(state)
        })
        .await
    }
}

async fn refuses(refused: &str) {
    let mut launcher = launch(refused).await;
    launcher.sync(json!([]), json!([])).await;
    let dir = launcher.dir.clone();
    let control = until("QMP", async || UnixStream::connect(dir.join("private/qmp")).await.ok()).await;
    let refused = refused.to_owned();
    tokio::spawn(async move { qmp(control, &refused).await });
    let state = launcher.reaches(DomainPhase::Crashed).await;
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

#[tokio::test]
async fn one_whose_image_does_not_come_can_be_ended() {
    let mut launcher = launch("image").await;
    launcher
        .sync(json!([{"name": "root"}]), json!([{"name": "root", "containerDisk": {"image": "x"}}]))
        .await;
    launcher.reaches(DomainPhase::Starting).await;
    let request = ShutdownVirtualMachineRequest { grace_period_seconds: Some(600) };
    launcher.rpc.client.shutdown_virtual_machine(request).await.unwrap();
    let state = launcher.reaches(DomainPhase::Shutoff).await;
    assert_eq!((state.reason.as_str(), state.qemu_pid), ("Killed", 0));
    assert_eq!(state.exit_detail, "ended before QEMU was started");
    std::fs::remove_dir_all(&launcher.dir).unwrap();
}
