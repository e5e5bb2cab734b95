#!/bin/bash
# cloud-guest.sh OUT: a disk image as clouds have them, of Debian packages: it boots by itself and takes its cloud-init.
# It is at OUT/disk/cloud-guest.qcow2. A partition with SYSLINUX, the kernel and a small initramfs; another one with the
# root. No loop device and no mount is needed, so it can be made in a container.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

out=$(realpath "$1")
sources=$REPO/images/cloud-guest
need_packages mmdebstrap e2fsprogs fdisk mtools syslinux qemu-utils cpio xz-utils
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The smallest that serves as the kernel's initramfs-tools (ours is used), what a guest of systemd and cloud-init needs,
# and what people look for in it.
packages=linux-image-cloud-amd64,tiny-initramfs,systemd-sysv,udev,dbus,systemd-resolved,cloud-init
packages+=,busybox-static,iproute2,openssh-server,sudo
# What nobody reads in a test guest.
excluded=(/usr/share/{bash-completion,doc,i18n,info,lintian,locale,man}/\* /usr/lib/udev/hwdb.d/\* /usr/lib/x86_64-linux-gnu/gconv/\*)

make_root() {
  local pattern options=()
  for pattern in "${excluded[@]}"; do options+=(--dpkgopt="path-exclude=$pattern"); done
  say "cloud guest: packages from Debian $GUEST_SUITE (about a minute)"
  # shellcheck disable=SC2016 # $1 is the hook's
  mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' "${options[@]}" \
    --customize-hook='chroot "$1" systemctl --quiet enable systemd-networkd.service serial-getty@ttyS0.service' \
    "$GUEST_SUITE" root.tar >log 2>&1 || {
    cat log >&2
    fail "mmdebstrap"
  }
  mkdir root
  tar -C root -xf root.tar
  rm root.tar
  cp -r "$sources/root/." root/
}

# Units and generators that are of no use here, or only cost time at each start.
masked_units=(
  apt-daily{,-upgrade}.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
  systemd-{binfmt,firstboot,hwdb-update,journal-catalog-update,journal-flush,machine-id-commit,pstore,random-seed}.service
  systemd-{network-generator,networkd-persistent-storage,tpm2-setup,tpm2-setup-early,udev-load-credentials}.service
  systemd-{creds,initctl,pcrextend,pcrlock,sysext}.socket systemd-ask-password-{console,wall}.path
  ldconfig.service kmod-static-nodes.service modprobe@{configfs,drm,fuse}.service cloud-init-hotplugd.socket
  dev-{hugepages,mqueue}.mount proc-sys-fs-binfmt_misc.automount run-lock.mount
  sys-fs-fuse-connections.mount sys-kernel-{config,debug,tracing}.mount
)
masked_generators=(debug gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2)

settle_root() {
  local name
  : >root/etc/machine-id # the machine's own uuid becomes its id
  for name in "${masked_units[@]}"; do ln -sfn /dev/null "root/etc/systemd/system/$name"; done
  mkdir -p root/etc/systemd/system-generators
  for name in "${masked_generators[@]}"; do ln -sfn /dev/null "root/etc/systemd/system-generators/systemd-$name-generator"; done
  rm -f root/etc/ssh/ssh_host_* root/etc/hostname root/etc/resolv.conf
  ln -s ../run/systemd/resolve/stub-resolv.conf root/etc/resolv.conf
  # Nothing in /etc and /var is older than /usr: nothing has to be brought up to date.
  touch root/usr root/etc/.updated root/var/.updated
}

make_initramfs() {
  local module path
  mkdir -p initramfs/{bin,dev,root}
  install -m 755 root/usr/bin/busybox initramfs/bin/
  install -m 755 "$sources/init" initramfs/init
  mknod -m 600 initramfs/dev/console c 5 1 2>/dev/null || true # else the kernel's own
  for module in virtio_blk scsi_common scsi_mod libata libahci ahci sd_mod; do
    path=$(find root/usr/lib/modules -name "$module.ko*")
    [[ -n $path ]] || fail "Debian's cloud kernel has no module $module"
    if [[ $path == *.xz ]]; then xz -dc "$path"; else cat "$path"; fi >"initramfs/$module.ko"
  done
  (cd initramfs && find . | cpio --quiet -o -H newc -R 0:0) >initrd.img
}

# Sizes in MiB; a sparse file, so what is empty costs nothing.
boot_start=1 boot_size=31 root_start=32 disk_size=2048

make_disk() {
  local partition="disk.raw@@${boot_start}M"
  truncate -s "${disk_size}M" disk.raw
  sfdisk --quiet disk.raw <<PARTITIONS
label: dos
start=${boot_start}MiB, size=${boot_size}MiB, type=e, bootable
start=${root_start}MiB, type=83
PARTITIONS
  dd if=/usr/lib/SYSLINUX/mbr.bin of=disk.raw bs=440 count=1 conv=notrunc status=none
  mformat -i "$partition" -T $((boot_size * 2048)) -h 64 -s 32 ::
  mcopy -i "$partition" "$sources/syslinux.cfg" initrd.img ::
  mcopy -i "$partition" root/boot/vmlinuz-* ::vmlinuz
  syslinux --install --offset $((boot_start << 20)) disk.raw
  rm -rf root/boot/*
  truncate -s $((disk_size - root_start))M root.raw
  mke2fs -q -t ext4 -L cloud-guest -m 0 -J size=8 -E lazy_itable_init=0,lazy_journal_init=0 -d root root.raw
  dd if=root.raw of=disk.raw bs=1M seek=$root_start conv=notrunc,sparse status=none
  mkdir "$out/disk"
  qemu-img convert -c -O qcow2 disk.raw "$out/disk/cloud-guest.qcow2"
  chmod 644 "$out/disk/cloud-guest.qcow2"
}

make_root
settle_root
make_initramfs
make_disk
say "cloud guest: $(du -h "$out/disk/cloud-guest.qcow2" | cut -f1)"
