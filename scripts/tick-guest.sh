#!/bin/bash
# tick-guest.sh OUT: the test guest's kernel and initramfs, at OUT/boot.
# The kernel is Debian's; the initramfs is busybox, two modules and images/tick-guest/init.
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
install -m 755 "$REPO/images/tick-guest/init" initramfs/init
mkdir -p initramfs/{dev,proc,sys}
mknod -m 600 initramfs/dev/console c 5 1 2>/dev/null || true # else the kernel's own
find root \( -name button.ko -o -name evdev.ko \) -exec cp {} initramfs/ \;
mkdir "$out/boot"
# Not compressed: unpacking costs an emulated processor more than reading.
(cd initramfs && find . | cpio --quiet -o -H newc -R 0:0) >"$out/boot/initramfs.img"
install -m 644 root/boot/vmlinuz-* "$out/boot/vmlinuz"
chmod 644 "$out/boot/initramfs.img"
