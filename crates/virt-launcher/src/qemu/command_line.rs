//! QEMU's command line for a guest. Pure; goldens beside it.
//!
//! Devices get their PCI addresses in the order in which they stand here, and guests know
//! their devices by these addresses: new ones are added behind the old ones.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Accel;
use super::spec::{Bus, DiskSpec, GuestSpec, InterfaceSpec, Nic};
use crate::paths::Paths;

/// Ports of one AHCI controller.
const SATA_PORTS: usize = 6;

/// All arguments of QEMU. It starts with the guest stopped, connected to our serial and
/// QMP sockets, so that nothing the guest does can be missed.
///
/// With `incoming` it waits for a guest from elsewhere: to be the same machine, it must have
/// the same arguments otherwise.
pub fn command_line(guest: &GuestSpec, paths: &Paths, accel: Accel, incoming: bool) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    base(&mut line, guest);
    processor(&mut line, guest, accel);
    line.add("-m", format!("size={}M", guest.memory_mib));
    boot(&mut line, guest, paths);
    control(&mut line, guest, paths);
    screen(&mut line, guest, paths);
    if guest.rng {
        line.add("-object", "rng-builtin,id=rng0");
        line.add("-device", "virtio-rng-pci,id=rng,rng=rng0");
    }
    for (i, interface) in guest.interfaces.iter().enumerate() {
        network(&mut line, i, interface);
    }
    disks(&mut line, &guest.disks, paths);
    if incoming {
        line.add("-incoming", "defer");
    }
    line.0
}

fn base(line: &mut Line, guest: &GuestSpec) {
    line.add("-name", format!("guest={},debug-threads=on", guest.name));
    line.add("-uuid", guest.uuid.clone());
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    // Until we say so by QMP.
    line.flag("-S");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.add("-rtc", "base=utc");
    line.add("-msg", "timestamp=off");
    if let Some(serial) = &guest.serial {
        line.option("-smbios", "type=1,serial=", OsStr::new(serial));
    }
}

fn processor(line: &mut Line, guest: &GuestSpec, accel: Accel) {
    line.add("-machine", format!("{},dump-guest-core=off,usb=off", guest.machine));
    let (accelerator, best) = match accel {
        Accel::Kvm => ("kvm", "host"),
        // The buffer of translated code in MiB: virt-controller counts on it for the pod's memory.
        Accel::Tcg => ("tcg,thread=multi,tb-size=64", "max"),
    };
    line.add("-accel", accelerator);
    line.add("-cpu", guest.cpu_model.as_deref().unwrap_or(best));
    let (sockets, cores, threads) = guest.topology;
    let cpus = u64::from(sockets) * u64::from(cores) * u64::from(threads);
    line.add("-smp", format!("cpus={cpus},sockets={sockets},cores={cores},threads={threads}"));
}

fn boot(line: &mut Line, guest: &GuestSpec, paths: &Paths) {
    let Some(boot) = &guest.boot else { return };
    line.add("-kernel", paths.kernel());
    if boot.initrd {
        line.add("-initrd", paths.initrd());
    }
    if let Some(args) = &boot.args {
        line.add("-append", args);
    }
}

fn control(line: &mut Line, guest: &GuestSpec, paths: &Paths) {
    line.option("-chardev", "socket,id=qmp,path=", paths.qmp().as_os_str());
    line.add("-mon", "chardev=qmp,mode=control");
    if guest.console {
        line.option("-chardev", "socket,id=serial,path=", paths.serial().as_os_str());
        line.add("-device", "isa-serial,id=serial0,chardev=serial");
    }
    // Tells us of a panic, in guests with the driver.
    line.add("-device", "pvpanic,id=panic");
}

fn screen(line: &mut Line, guest: &GuestSpec, paths: &Paths) {
    line.add("-display", "none");
    if guest.graphics {
        // Who may watch with whom is settled before: a viewer that asks for the screen alone must not end others.
        line.option("-vnc", "share=ignore,vnc=unix:", paths.vnc().as_os_str());
        line.add("-device", "VGA,id=video0,vgamem_mb=16");
    } else {
        line.add("-vga", "none");
    }
}

fn network(line: &mut Line, i: usize, interface: &InterfaceSpec) {
    line.add("-netdev", format!("user,id=net{i}"));
    let model = match interface.nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000 => "e1000",
    };
    // No romfile: there is nothing to boot from on this network.
    let InterfaceSpec { name, mac, .. } = interface;
    line.add("-device", format!("{model},id=net-{name},netdev=net{i},mac={mac},romfile="));
}

fn disks(line: &mut Line, disks: &[DiskSpec], paths: &Paths) {
    let mut ports = 0;
    for (i, disk) in disks.iter().enumerate() {
        let access = if disk.readonly { "read-only=on" } else { "read-only=off" };
        line.option(
            "-blockdev",
            &format!("driver=raw,node-name=disk{i},{access},discard=unmap,file.driver=file,file.filename="),
            paths.empty_disk(&disk.volume).as_os_str(),
        );
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Sata => {
                let (controller, port) = (ports / SATA_PORTS, ports % SATA_PORTS);
                if port == 0 {
                    line.add("-device", format!("ahci,id=sata{controller}"));
                }
                ports += 1;
                format!("ide-hd,bus=sata{controller}.{port}")
            }
        };
        let device = format!("{device},id=disk-{},drive=disk{i}", disk.name);
        match &disk.serial {
            None => line.add("-device", device),
            Some(serial) => line.option("-device", &format!("{device},serial="), OsStr::new(serial)),
        }
    }
}

/// Arguments as they are: nothing is ever joined for a shell.
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn add(&mut self, flag: &str, value: impl Into<OsString>) {
        self.flag(flag);
        self.0.push(value.into());
    }

    /// An option with a value that may hold a comma, which QEMU wants doubled.
    fn option(&mut self, flag: &str, before: &str, value: &OsStr) {
        let mut text = before.as_bytes().to_vec();
        for byte in value.as_bytes() {
            text.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
        }
        self.add(flag, OsString::from_vec(text));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;
    use crate::qemu::spec::BootSpec;

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
            interfaces: vec![InterfaceSpec {
                name: "default".into(),
                mac: "02:00:00:00:00:01".into(),
                nic: Nic::Virtio,
            }],
            console: true,
            graphics: true,
            rng: false,
            start_paused: false,
        }
    }

    fn disk(name: &str, bus: Bus) -> DiskSpec {
        DiskSpec { name: name.into(), volume: name.into(), bytes: 1, bus, readonly: false, serial: None }
    }

    fn lines(guest: &GuestSpec, accel: Accel) -> String {
        let run = ["virt-launcher", "--name", "tick", "--namespace", "default", "--uid", "u"];
        let paths = Args::try_parse_from(run).unwrap().run.paths;
        let line: Vec<String> = command_line(guest, &paths, accel, false)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        line.join("\n").replace("\n-", "\n\n-")
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
            interfaces: vec![InterfaceSpec {
                name: "red".into(),
                mac: "02:00:00:00:00:02".into(),
                nic: Nic::E1000,
            }],
            console: false,
            graphics: false,
            rng: true,
            ..tick()
        };
        insta::assert_snapshot!(lines(&guest, Accel::Kvm));
    }

    #[test]
    fn a_guest_from_elsewhere_finds_the_same_machine() {
        let run = ["virt-launcher", "--name", "tick", "--namespace", "default", "--uid", "u"];
        let paths = Args::try_parse_from(run).unwrap().run.paths;
        let fresh = command_line(&tick(), &paths, Accel::Tcg, false);
        let incoming = command_line(&tick(), &paths, Accel::Tcg, true);
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
}
