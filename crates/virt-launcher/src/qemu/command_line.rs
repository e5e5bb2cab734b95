//! QEMU's command line for a guest. Pure; goldens beside it.
//!
//! Devices get their PCI addresses in the order in which they stand here, and guests know
//! their devices by these addresses: new ones are added behind the old ones.

mod disks;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use kubevirt_types::vmi::Protocol;

use super::Accel;
use super::spec::{GuestSpec, InterfaceSpec, Nic};
use crate::disks::Inherited;
use crate::paths::Paths;

/// What QEMU's arguments depend on beside the guest.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Where everything is.
    pub paths: &'a Paths,
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// Images of the guest's container disks, by volume.
    pub images: BTreeMap<String, Inherited>,
    /// QEMU's end of the serial line, if there is one: its number among open files.
    pub serial: Option<RawFd>,
    /// Domains in which the guest is to look for names.
    pub search: Vec<String>,
}

/// All arguments of QEMU. It starts with the guest stopped, connected to our serial
/// line and QMP socket, so that nothing the guest does can be missed.
///
/// With `incoming` it waits for a guest from elsewhere: to be the same machine, it must have
/// the same arguments otherwise.
pub fn command_line(guest: &GuestSpec, around: &Surroundings<'_>, incoming: bool) -> Vec<OsString> {
    let paths = around.paths;
    let mut line = Line(Vec::new());
    base(&mut line, guest);
    processor(&mut line, guest, around.accel);
    line.add("-m", format!("size={}M", guest.memory_mib));
    boot(&mut line, guest, paths);
    control(&mut line, around);
    screen(&mut line, guest, paths);
    if guest.rng {
        line.add("-object", "rng-builtin,id=rng0");
        line.add("-device", "virtio-rng-pci,id=rng,rng=rng0");
    }
    for (i, interface) in guest.interfaces.iter().enumerate() {
        network(&mut line, i, interface, &around.search);
    }
    disks::disks(&mut line, &guest.disks, &around.images, paths);
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

fn control(line: &mut Line, around: &Surroundings<'_>) {
    line.option("-chardev", "socket,id=qmp,path=", around.paths.qmp().as_os_str());
    line.add("-mon", "chardev=qmp,mode=control");
    if let Some(serial) = around.serial {
        line.add("-chardev", format!("socket,id=serial,fd={serial}"));
        line.add("-device", "isa-serial,id=serial0,chardev=serial");
    }
    // Tells us of a panic, in guests with the driver.
    line.add("-device", "pvpanic,id=panic");
}

fn screen(line: &mut Line, guest: &GuestSpec, paths: &Paths) {
    line.add("-display", "none");
    if guest.graphics {
        line.option("-vnc", "unix:", paths.vnc().as_os_str());
        line.add("-device", "VGA,id=video0,vgamem_mb=16");
    } else {
        line.add("-vga", "none");
    }
}

fn network(line: &mut Line, i: usize, interface: &InterfaceSpec, search: &[String]) {
    let InterfaceSpec { name, mac, nic, network, ports } = interface;
    let mut netdev = format!(
        "user,id=net{i},ipv6=off,net={}/{},host={},dns={},dhcpstart={}",
        network.network, network.prefix, network.gateway, network.dns, network.guest
    );
    for domain in search {
        netdev += &format!(",dnssearch={domain}");
    }
    for (protocol, port) in ports {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        netdev += &format!(",hostfwd={protocol}::{port}-{}:{port}", network.guest);
    }
    line.add("-netdev", netdev);
    let model = match nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000 => "e1000",
    };
    // No romfile: there is nothing to boot from on this network.
    line.add("-device", format!("{model},id=net-{name},netdev=net{i},mac={mac},romfile="));
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
mod tests;
