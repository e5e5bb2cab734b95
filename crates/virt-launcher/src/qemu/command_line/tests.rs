//! Goldens of the command line.

use clap::Parser;

use super::*;
use crate::args::Args;
use crate::container_disk::image::Format;
use crate::qemu::spec::{BootSpec, Bus, DiskSpec, Masquerade, Source};
use crate::seed::{Document, SeedSpec};

fn interface(name: &str, mac: &str, nic: Nic) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        mac: mac.into(),
        nic,
        network: Masquerade::of("10.0.2.0/24").unwrap(),
        ports: Vec::new(),
    }
}

fn tick() -> GuestSpec {
    GuestSpec {
        name: "default_tick".into(),
        uuid: "6fe59d2c-9c0b-4f0e-8a80-0123456789ab".into(),
        serial: None,
        machine: "q35".into(),
        cpu_model: None,
        topology: (1, 1, 1),
        memory_mib: 96,
        boot: Some(BootSpec { args: Some("console=ttyS0 quiet".into()), initrd: true }),
        disks: Vec::new(),
        interfaces: vec![interface("default", "02:00:00:00:00:01", Nic::Virtio)],
        console: true,
        graphics: true,
        rng: false,
        start_paused: false,
    }
}

fn disk(name: &str, bus: Bus) -> DiskSpec {
    DiskSpec {
        name: name.into(),
        volume: name.into(),
        source: Source::Empty { bytes: 1 },
        bus,
        readonly: false,
        boot_order: None,
        serial: None,
    }
}

fn paths() -> Paths {
    let run = ["virt-launcher", "--name", "tick", "--namespace", "default", "--uid", "u"];
    Args::try_parse_from(run).unwrap().run.paths
}

fn lines_with(
    guest: &GuestSpec,
    images: BTreeMap<String, Inherited>,
    search: &[&str],
    accel: Accel,
) -> String {
    let search = search.iter().map(|domain| (*domain).to_owned()).collect();
    let around = Surroundings { paths: &paths(), accel, images, serial: guest.console.then_some(9), search };
    let line: Vec<String> =
        command_line(guest, &around, false).into_iter().map(|arg| arg.into_string().unwrap()).collect();
    line.join("\n").replace("\n-", "\n\n-")
}

fn lines(guest: &GuestSpec, accel: Accel) -> String {
    lines_with(guest, BTreeMap::new(), &[], accel)
}

#[test]
fn the_tick_guest_emulated() {
    insta::assert_snapshot!(lines(&tick(), Accel::Tcg));
}

#[test]
fn everything_with_kvm() {
    let guest = GuestSpec {
        serial: Some("a,b".into()),
        machine: "pc-i440fx-7.2".into(),
        cpu_model: Some("Haswell-noTSX".into()),
        topology: (2, 4, 1),
        boot: None,
        disks: vec![
            DiskSpec { readonly: true, serial: Some("S,1".into()), ..disk("data", Bus::Virtio) },
            disk("old", Bus::Sata),
            disk("older", Bus::Sata),
        ],
        interfaces: vec![interface("red", "02:00:00:00:00:02", Nic::E1000)],
        console: false,
        graphics: false,
        rng: true,
        ..tick()
    };
    insta::assert_snapshot!(lines(&guest, Accel::Kvm));
}

#[test]
fn a_guest_with_images_a_seed_and_ports() {
    let container =
        |name: &str, bus| DiskSpec { source: Source::Container { pinned: false }, ..disk(name, bus) };
    let seed = SeedSpec {
        instance_id: "tick.default".into(),
        hostname: "tick".into(),
        user_data: Document::Inline(b"password: hidden".to_vec()),
        network_data: None,
    };
    let guest = GuestSpec {
        boot: None,
        disks: vec![
            DiskSpec { boot_order: Some(2), ..container("root", Bus::Virtio) },
            DiskSpec { readonly: true, boot_order: Some(1), ..container("install", Bus::SataCdrom) },
            container("more", Bus::Sata),
            DiskSpec { source: Source::Seed(seed), readonly: true, ..disk("init", Bus::Virtio) },
        ],
        interfaces: vec![InterfaceSpec {
            network: Masquerade::of("192.168.66.0/28").unwrap(),
            ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)],
            ..interface("default", "02:00:00:00:00:01", Nic::Virtio)
        }],
        ..tick()
    };
    let image = |volume: &str, fd, format| (volume.to_owned(), Inherited { fd, format });
    let images =
        [image("root", 21, Format::Qcow2), image("install", 22, Format::Raw), image("more", 23, Format::Raw)];
    let text =
        lines_with(&guest, BTreeMap::from(images), &["ns.svc.cluster.local", "cluster.local"], Accel::Tcg);
    assert!(!text.contains("hidden"));
    insta::assert_snapshot!(text);
}

#[test]
fn a_guest_from_elsewhere_finds_the_same_machine() {
    let paths = paths();
    let around = Surroundings {
        paths: &paths,
        accel: Accel::Tcg,
        images: BTreeMap::new(),
        serial: Some(9),
        search: Vec::new(),
    };
    let fresh = command_line(&tick(), &around, false);
    let incoming = command_line(&tick(), &around, true);
    assert_eq!(incoming[..fresh.len()], fresh);
    assert_eq!(incoming[fresh.len()..], ["-incoming", "defer"]);
}

#[test]
fn the_seventh_sata_disk_gets_a_second_controller() {
    let disks = (0..7).map(|i| disk(&format!("d{i}"), Bus::Sata)).collect();
    let text = lines(&GuestSpec { disks, ..tick() }, Accel::Tcg);
    assert_eq!(text.matches("ahci,id=").count(), 2);
    assert!(text.contains("ide-hd,bus=sata1.0,id=disk-d6,drive=disk6"), "{text}");
}

#[test]
fn the_first_disk_is_booted_from_unless_another_is_named() {
    let seed = SeedSpec {
        instance_id: "tick.default".into(),
        hostname: "tick".into(),
        user_data: Document::Secret,
        network_data: None,
    };
    let seed = DiskSpec { source: Source::Seed(seed), readonly: true, ..disk("init", Bus::Virtio) };
    let (cdrom, root, data) =
        (disk("cd", Bus::SataCdrom), disk("root", Bus::Virtio), disk("data", Bus::Sata));
    for (disks, want) in [
        (vec![&root, &data], vec!["disk-root,drive=disk0,bootindex=1"]),
        (vec![&data, &root], vec!["disk-data,drive=disk0,bootindex=1"]),
        (vec![&seed, &cdrom, &root], vec!["disk-root,drive=disk2,bootindex=1"]),
        (vec![&cdrom, &seed], vec![]),
        (
            vec![&root, &DiskSpec { boot_order: Some(7), ..cdrom.clone() }],
            vec!["disk-cd,drive=disk1,bootindex=7"],
        ),
    ] {
        let disks = disks.into_iter().cloned().collect();
        let text = lines(&GuestSpec { disks, ..tick() }, Accel::Tcg);
        let booted: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("bootindex="))
            .filter_map(|line| line.split_once("id=").map(|(_, device)| device))
            .collect();
        assert_eq!(booted, want);
    }
}
