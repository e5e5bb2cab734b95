//! Guests with disks: an image that another process gives, what is written to it, a seed for cloud-init.
//!
//! The guest is one sector that the firmware boots: it says what the image's second sector says, writes
//! "overlaid" there, says what is there now, and then the label of the second disk.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use handler_launcher_com::launcher::{DomainPhase, MigrationOptions, MigrationPhase};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::launcher::{Launcher, Reader, tick, ticks};

/// `boot_sector.s`, without the zeros and the mark at its end.
#[rustfmt::skip]
const BOOT_SECTOR: &[u8] = &[
    0xea, 0x05, 0x7c, 0x00, 0x00, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0x88, 0x16,
    0x93, 0x7c, 0xb4, 0x42, 0xe8, 0x47, 0x00, 0xbe, 0x00, 0x80, 0xe8, 0x57, 0x00, 0xbe, 0xa4, 0x7c, 0xbf, 0x00,
    0x80, 0xb9, 0x09, 0x00, 0xf3, 0xa4, 0xb4, 0x43, 0xe8, 0x31, 0x00, 0xbf, 0x00, 0x80, 0x30, 0xc0, 0xb9, 0x00,
    0x02, 0xf3, 0xaa, 0xb4, 0x42, 0xe8, 0x22, 0x00, 0xbe, 0x00, 0x80, 0xe8, 0x32, 0x00, 0xfe, 0x06, 0x93, 0x7c,
    0xc6, 0x06, 0x9c, 0x7c, 0x00, 0xb4, 0x42, 0xe8, 0x0e, 0x00, 0xbe, 0x2b, 0x80, 0xc6, 0x06, 0x36, 0x80, 0x00,
    0xe8, 0x19, 0x00, 0xf4, 0xeb, 0xfd, 0x8a, 0x16, 0x93, 0x7c, 0x30, 0xc0, 0xbe, 0x94, 0x7c, 0xcd, 0x13, 0x72,
    0x01, 0xc3, 0xbe, 0xad, 0x7c, 0xe8, 0x02, 0x00, 0xeb, 0xe7, 0xac, 0x84, 0xc0, 0x74, 0x05, 0xe8, 0x04, 0x00,
    0xeb, 0xf6, 0xb0, 0x0a, 0x88, 0xc3, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x88, 0xd8, 0xba, 0xf8,
    0x03, 0xee, 0xc3, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x80, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x6f, 0x76, 0x65, 0x72, 0x6c, 0x61, 0x69, 0x64, 0x00, 0x6e, 0x6f, 0x20, 0x64, 0x69, 0x73, 0x6b,
    0x00,
];
const SECTOR: usize = 512;
const IMAGE: &str = "image says hello";

/// The container that gives an image.
struct Sidecar(Child);

impl Sidecar {
    fn start(image: &Path, launcher: &Launcher, volume: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
            .arg("container-disk")
            .arg("--path")
            .arg(image)
            .arg("--to")
            .arg(launcher.dir.join("images").join(volume))
            .kill_on_drop(true)
            .spawn();
        Self(child.unwrap())
    }

    async fn ends_when_told(mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().await.unwrap().success());
    }
}

fn raw_image(path: &Path) {
    // The firmware boots from nothing that is smaller than a cylinder.
    let mut disk = vec![0; 4096 * SECTOR];
    disk[..BOOT_SECTOR.len()].copy_from_slice(BOOT_SECTOR);
    disk[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    disk[SECTOR..SECTOR + IMAGE.len()].copy_from_slice(IMAGE.as_bytes());
    std::fs::write(path, disk).unwrap();
}

async fn to_qcow2(raw: &Path, arguments: &[&str]) -> PathBuf {
    let path = raw.with_extension("qcow2");
    let tool = std::env::var_os("KUBEVIRT_TEST_QEMU_IMG").expect("KUBEVIRT_TEST_QEMU_IMG is set");
    let mut command = Command::new(tool);
    command.args(arguments).arg(raw).arg(&path).stdout(Stdio::null());
    assert!(command.status().await.unwrap().success());
    path
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("vli-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn bootable(root: Value, rng: bool) -> Value {
    let mut devices = json!({"disks": [root, {"name": "init"}, {"name": "scratch"}]});
    if rng {
        devices["rng"] = json!({});
    }
    json!({
        "domain": {"memory": {"guest": "64Mi"}, "devices": devices},
        "volumes": [
            {"name": "root", "containerDisk": {"image": "x"}},
            {"name": "init", "cloudInitNoCloud": {"userData": "#cloud-config"}},
            {"name": "scratch", "emptyDisk": {"capacity": "10Mi"}},
        ],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn it_boots_from_an_image_and_writes_beside_it() {
    let dir = scratch("boots");
    let raw = dir.join("disk.raw");
    raw_image(&raw);
    let qcow2 = to_qcow2(&raw, &["convert", "-f", "raw", "-O", "qcow2"]).await;
    for (image, bus) in [(&raw, "virtio"), (&qcow2, "virtio"), (&qcow2, "sata")] {
        let before = std::fs::read(image).unwrap();
        let root = json!({"name": "root", "disk": {"bus": bus}, "bootOrder": 1});
        let mut launcher = Launcher::start_for("image", &bootable(root, bus == "virtio")).await;
        launcher.sync().await;
        // Later than the launcher looks for it, as on a busy node.
        let sidecar = Sidecar::start(image, &launcher, "root");
        let state = launcher.until(|state| state.phase() != DomainPhase::Starting).await;
        assert_eq!(state.phase(), DomainPhase::Running, "{state:?}");
        let why = "volume \"root\" is a containerDisk: what the guest writes to it is on this node only";
        assert_eq!(state.not_migratable, why);
        let mut reader = Reader::default();
        reader.read_until(&launcher, |text| text.contains("cidata")).await;
        assert_eq!(reader.text.trim_end(), format!("{IMAGE}\noverlaid\ncidata"), "{image:?} {bus}");
        assert!(before == std::fs::read(image).unwrap(), "the image has been written to");
        sidecar.ends_when_told().await;
        launcher.kill().await;
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn a_cdrom_stands_beside_its_disk() {
    let dir = scratch("cdrom");
    let raw = dir.join("disk.raw");
    raw_image(&raw);
    // A CD-ROM isn't what a sector is booted from; the disk beside it is.
    let mut spec = bootable(json!({"name": "root"}), false);
    spec["domain"]["devices"]["disks"][1] = json!({"name": "init", "cdrom": {"bus": "sata"}});
    // It stands first; the firmware alone would boot from this one.
    spec["domain"]["devices"]["disks"][2] = json!({"name": "scratch", "disk": {"bus": "sata"}});
    let mut launcher = Launcher::start_for("cdrom", &spec).await;
    let _sidecar = Sidecar::start(&raw, &launcher, "root");
    launcher.boot().await;
    let mut reader = Reader::default();
    reader.read_until(&launcher, |text| text.contains("overlaid\n")).await;
    launcher.kill().await;
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn an_image_that_names_another_file_is_never_opened() {
    let dir = scratch("backed");
    let raw = dir.join("disk.raw");
    raw_image(&raw);
    let backed = to_qcow2(&raw, &["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    let looked = command.arg("container-disk").arg("--path").arg(&backed).output().await.unwrap();
    let said = String::from_utf8(looked.stderr).unwrap();
    assert!(!looked.status.success() && said.contains("that needs another file (a backing file)"), "{said}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn it_moves_with_disks_that_are_the_same_there() {
    let dir = scratch("moves");
    let raw = dir.join("disk.raw");
    raw_image(&raw);
    let spec = tick(
        json!({"disks": [{"name": "init"}, {"name": "tools", "cdrom": {}}]}),
        json!([
            {"name": "init", "cloudInitNoCloud": {"userData": "#cloud-config"}},
            {"name": "tools", "containerDisk": {"image": "x@sha256:0"}},
        ]),
    );
    let mut at = Launcher::start_for("d0", &spec).await;
    let _given = Sidecar::start(&raw, &at, "tools");
    at.boot().await;
    let mut reader = Reader::default();
    reader.read_until(&at, |text| text.contains("tick 3 ")).await;
    let mut to = Launcher::start_for("d1", &spec).await;
    let _given_there = Sidecar::start(&raw, &to, "tools");
    at.begin(&mut to, "move", MigrationOptions::default()).await;
    let moved = at.until(|state| state.phase() == DomainPhase::Shutoff).await;
    assert_eq!(moved.migration.unwrap().phase(), MigrationPhase::Completed);
    to.until(|state| state.phase() == DomainPhase::Running).await;
    let seed = |launcher: &Launcher| std::fs::read(launcher.dir.join("disks/init.seed")).unwrap();
    assert!(seed(&at) == seed(&to), "the same seed");
    let next = ticks(&reader.text).len() + 5;
    reader.read_until(&to, |text| ticks(text).len() > next).await;
    to.kill().await;
    std::fs::remove_dir_all(dir).unwrap();
}
