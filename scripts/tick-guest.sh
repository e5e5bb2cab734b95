#!/bin/bash
# tick-guest.sh OUT: the test guest's kernel and initramfs, at OUT/boot, a disk that it can be given, at OUT/disk,
# and busybox, at OUT/bin.
# The kernel is Debian's; the initramfs is busybox, a few modules and images/tick-guest/{init,lease}.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

out=$(realpath "$1")
need_packages cpio dpkg apt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

say "tick guest: fetching Debian's cloud kernel and busybox"
download() {
  local kernel
  kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/ *Depends: //p')
  [[ -n $kernel ]] && apt-get -q -o APT::Sandbox::User=root download "$kernel" busybox-static >/dev/null
}
# An old package list names a kernel that Debian has replaced since.
download || { apt-get update -qq && download; }
for package in ./*.deb; do dpkg -x "$package" root; done

install -D -m 755 root/bin/busybox initramfs/bin/busybox
install -m 755 "$REPO"/images/tick-guest/{init,lease} initramfs/
mkdir -p initramfs/{dev,proc,sys,www}
echo "tick guest" >initramfs/www/index.html
# Two megabytes for those who ask for more than a line.
ln -s /bin/busybox initramfs/www/busybox
mknod -m 600 initramfs/dev/console c 5 1 2>/dev/null || true # else the kernel's own
find root \( -name button.ko -o -name evdev.ko \) -exec cp {} initramfs/ \;
# In the order in which they need each other; what isn't there is in the kernel.
number=10
for module in virtio{_ring,,_pci_{legacy,modern}_dev,_pci} failover net_failover virtio_net virtio_blk rng-core virtio-rng; do
  find root -name "$module.ko" -exec install -D -m 644 {} "initramfs/virtio/$((number++))-$module.ko" \;
done
mkdir "$out/boot" "$out/disk"
# Not compressed: unpacking costs an emulated processor more than reading.
(cd initramfs && find . | cpio --quiet -o -H newc -R 0:0) >"$out/boot/initramfs.img"
install -m 644 root/boot/vmlinuz-* "$out/boot/vmlinuz"
chmod 644 "$out/boot/initramfs.img"
install -D -m 755 root/bin/busybox "$out/bin/busybox"
echo "the tick guest's disk" >"$out/disk/disk.img"
truncate -s 1M "$out/disk/disk.img"
chmod 644 "$out/disk/disk.img"
