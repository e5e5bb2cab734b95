//! A launcher's process in a directory of its own, and a reader of its guest's console.

use std::path::PathBuf;
use std::time::Duration;

use handler_launcher_com::launcher::{
    CancelMigrationRequest, DomainPhase, DomainState, GetDomainRequest, KillVirtualMachineRequest,
    MigrateVirtualMachineRequest, MigrationOptions, PrepareMigrationSourceRequest,
    PrepareMigrationTargetRequest, ShutdownVirtualMachineRequest, SoftRebootVirtualMachineRequest,
    SyncOptions, SyncVirtualMachineRequest,
};
use kubevirt_stream::attach::{self, AttachRequest};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Child;

use crate::process::{UID, virt_launcher};

/// For an emulated guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Launcher {
    pub dir: PathBuf,
    vmi: Vec<u8>,
    process: Child,
    /// Nobody's, while virt-handler is away.
    rpc: Option<handler_launcher_com::Launcher>,
}

/// The tick guest, with these disks, interfaces and so on.
pub fn tick(devices: Value, volumes: Value) -> Value {
    let boot = json!({
        "kernelArgs": "console=ttyS0 quiet",
        "container": {"image": "x", "kernelPath": "/k", "initrdPath": "/i"},
    });
    json!({"domain": {"memory": {"guest": "96Mi"}, "firmware": {"kernelBoot": boot}, "devices": devices}, "volumes": volumes})
}

fn vmi(spec: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "tick", "namespace": "default", "uid": UID}, "spec": spec,
    })
    .to_string()
    .into_bytes()
}

fn options() -> Option<SyncOptions> {
    Some(SyncOptions { allow_emulation: true })
}

impl Launcher {
    pub async fn start(name: &str) -> Self {
        Self::start_for(name, &tick(json!({}), json!([]))).await
    }

    pub async fn start_for(name: &str, spec: &Value) -> Self {
        let dir = std::env::temp_dir().join(format!("vlm-{}-{name}", std::process::id()));
        let variable = |name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
        let guest = PathBuf::from(variable("KUBEVIRT_TEST_GUEST"));
        let qemu = PathBuf::from(variable("KUBEVIRT_TEST_QEMU"));
        let mut command = virt_launcher(&dir, &qemu);
        std::os::unix::fs::symlink(guest.join("vmlinuz"), dir.join("boot/kernel")).unwrap();
        std::os::unix::fs::symlink(guest.join("initramfs.img"), dir.join("boot/initrd")).unwrap();
        let process = command.arg("--qemu-img").arg(variable("KUBEVIRT_TEST_QEMU_IMG")).spawn().unwrap();
        let mut launcher = Self { dir, vmi: vmi(spec), process, rpc: None };
        launcher.dial().await;
        launcher
    }

    async fn dial(&mut self) {
        let socket = self.dir.join("sockets/launcher-sock");
        let dial = async {
            loop {
                match handler_launcher_com::dial(&socket).await {
                    Ok(rpc) => return rpc,
                    // Its process is still starting.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let rpc = tokio::time::timeout(PATIENCE, dial).await.expect("the launcher answers");
        assert!(rpc.can("live-migration"));
        self.rpc = Some(rpc);
    }

    pub fn rpc(&mut self) -> &mut handler_launcher_com::Launcher {
        self.rpc.as_mut().expect("it was dialled at its start, and after each absence")
    }

    /// No virt-handler is connected for so long.
    pub async fn left_alone(&mut self, time: Duration) {
        self.rpc = None;
        tokio::time::sleep(time).await;
        self.dial().await;
    }

    pub async fn sync(&mut self) {
        let request = SyncVirtualMachineRequest { vmi_json: self.vmi.clone(), options: options() };
        self.rpc().client.sync_virtual_machine(request).await.unwrap();
    }

    pub async fn boot(&mut self) {
        self.sync().await;
        self.until(|state| state.phase() == DomainPhase::Running).await;
    }

    /// As virt-handlers do it: fingerprints there and back, then the move.
    pub async fn begin(&mut self, to: &mut Self, uid: &str, options: MigrationOptions) {
        let migration_uid = uid.to_owned();
        let request = PrepareMigrationSourceRequest { migration_uid: migration_uid.clone() };
        let source = self.rpc().client.prepare_migration_source(request).await.unwrap().into_inner();
        let request = PrepareMigrationTargetRequest {
            vmi_json: to.vmi.clone(),
            options: self::options(),
            migration_uid: migration_uid.clone(),
            source_certificate_sha256: source.certificate_sha256,
        };
        let target = to.rpc().client.prepare_migration_target(request).await.unwrap().into_inner();
        let request = MigrateVirtualMachineRequest {
            migration_uid,
            target_address: "127.0.0.1".into(),
            target_port: target.port,
            target_certificate_sha256: target.certificate_sha256,
            options: Some(options),
        };
        self.rpc().client.migrate_virtual_machine(request.clone()).await.unwrap();
        // Again: nothing changes.
        self.rpc().client.migrate_virtual_machine(request).await.unwrap();
    }

    pub async fn cancel(&mut self, uid: &str) {
        let request = CancelMigrationRequest { migration_uid: uid.to_owned() };
        self.rpc().client.cancel_migration(request).await.unwrap();
    }

    pub async fn soft_reboot(&mut self, grace: u64) {
        let request = SoftRebootVirtualMachineRequest { grace_period_seconds: Some(grace) };
        self.rpc().client.soft_reboot_virtual_machine(request).await.unwrap();
    }

    pub async fn shut_down(&mut self) {
        let request = ShutdownVirtualMachineRequest { grace_period_seconds: Some(60) };
        self.rpc().client.shutdown_virtual_machine(request).await.unwrap();
    }

    pub async fn kill(&mut self) {
        self.rpc().client.kill_virtual_machine(KillVirtualMachineRequest {}).await.unwrap();
        self.until(|state| state.phase() == DomainPhase::Shutoff).await;
    }

    pub async fn kill_qemu(&mut self) {
        let pid = self.until(|state| state.qemu_pid != 0).await.qemu_pid;
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// The first state of which this is true.
    pub async fn until(&mut self, what: impl Fn(&DomainState) -> bool) -> DomainState {
        let mut last = None;
        let wait = async {
            loop {
                let state = self.rpc().client.get_domain(GetDomainRequest {}).await.unwrap().into_inner();
                if what(&state) {
                    return state;
                }
                last = Some(state);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(state) => state,
            Err(_) => {
                panic!("{last:?}\n{}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default())
            }
        }
    }

    /// Its exit code, when it is told that it isn't needed any more.
    pub async fn ended(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        tokio::time::timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap().code()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Outside a container QEMU outlives a launcher that is killed, as one is when a test fails.
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("{log}");
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Somebody who reads a guest's console wherever the guest is.
#[derive(Default)]
pub struct Reader {
    pub text: String,
}

impl Reader {
    async fn attach(&self, at: &Launcher) -> UnixStream {
        let mut stream = UnixStream::connect(at.dir.join("sockets/console-sock")).await.unwrap();
        let resume_from = Some(self.text.len() as u64);
        let request = AttachRequest { session: "reader".into(), resume_from, ..AttachRequest::default() };
        let offset = attach::attach(&mut stream, &request).await.unwrap().offset;
        assert_eq!(offset, self.text.len() as u64, "nothing is lost or repeated");
        stream
    }

    pub async fn read_until(&mut self, at: &Launcher, what: impl Fn(&str) -> bool) {
        let mut stream = self.attach(at).await;
        let read = async {
            while !what(&self.text) {
                let mut chunk = [0; 4096];
                let count = stream.read(&mut chunk).await.unwrap();
                assert_ne!(count, 0, "the guest has ended: {}", self.text);
                self.text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the guest goes on");
    }

    /// The newest of the ticks that somebody reads who has never been here.
    pub async fn newest_tick(at: &Launcher) -> u64 {
        let mut stream = UnixStream::connect(at.dir.join("sockets/console-sock")).await.unwrap();
        let request = AttachRequest { session: "newcomer".into(), ..AttachRequest::default() };
        attach::attach(&mut stream, &request).await.unwrap();
        let mut newcomer = Self::default();
        let read = async {
            while ticks(&newcomer.text).len() < 3 {
                let mut chunk = vec![0; 1 << 20];
                let count = stream.read(&mut chunk).await.unwrap();
                assert_ne!(count, 0, "the guest has ended: {}", newcomer.text);
                newcomer.text.push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the guest goes on");
        *ticks(&newcomer.text).last().unwrap()
    }
}

/// The numbers of the ticks in whole lines.
pub fn ticks(text: &str) -> Vec<u64> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let number = |line: &str| line.strip_prefix("tick ")?.split(' ').next()?.parse().ok();
    whole.lines().filter_map(number).collect()
}
