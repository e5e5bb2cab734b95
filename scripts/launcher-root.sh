#!/bin/bash
# launcher-root.sh OUT: virt-launcher's root at OUT/root.tar: Debian's QEMU, what it is linked with,
# and the firmware that a q35 machine with a kernel and a VGA asks for (network cards have no ROM: see the command line).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

out=$1
need_packages mmdebstrap
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian" "$work/root"

say "launcher root: QEMU from Debian $QEMU_SUITE"
mmdebstrap --quiet --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include=qemu-system-x86,qemu-utils,seabios "$QEMU_SUITE" "$work/debian.tar" >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "mmdebstrap"
}
tar -C "$work/debian" -xf "$work/debian.tar"
modules=/usr/lib/x86_64-linux-gnu/qemu
"$REPO/scripts/minimal-root.sh" "$work/debian" "$work/root" \
  /usr/bin/qemu-system-x86_64 /usr/bin/qemu-img \
  $modules/hw-display-virtio-{gpu,gpu-pci,vga}.so \
  /usr/share/seabios/{bios-256k,vgabios-stdvga,vgabios-virtio}.bin \
  /usr/share/qemu/{kvmvapic,linuxboot_dma}.bin \
  /usr/share/qemu/keymaps
mkdir "$work/root/etc"
echo "qemu:x:107:107:virt-launcher:/:/usr/sbin/nologin" >"$work/root/etc/passwd"
echo "qemu:x:107:" >"$work/root/etc/group"
chmod -R a+rX "$work/root"
tar -C "$work/root" --owner=0 --group=0 -cf "$out/root.tar" .
