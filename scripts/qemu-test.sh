#!/bin/bash
# qemu-test.sh: virt-launcher with its image's QEMU and the tick guest: migrates it, reboots it, gives it disks, looks at its
# screen. First that QEMU's screen, cut under a viewer.
# Needs the launcher's root and the tick guest, which `make images` builds.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

root=$(launcher_root)/root.tar
guest=$(tick_guest)/boot
[[ -e $root && -d $guest ]] || fail "the launcher's root or the tick guest isn't there: make images"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
tar -C "$work/root" -xf "$root"
cat >"$work/qemu" <<EOF
#!/bin/sh
export QEMU_MODULE_DIR=$work/root/usr/lib/x86_64-linux-gnu/qemu
exec $work/root/usr/lib64/ld-linux-x86-64.so.2 \\
  --library-path $work/root/usr/lib/x86_64-linux-gnu:$work/root/usr/lib $work/root/usr/bin/qemu-system-x86_64 \\
  -L $work/root/usr/share/qemu -L $work/root/usr/share/seabios "\$@"
EOF
cat >"$work/qemu-img" <<EOF
#!/bin/sh
exec $work/root/usr/lib64/ld-linux-x86-64.so.2 \\
  --library-path $work/root/usr/lib/x86_64-linux-gnu:$work/root/usr/lib $work/root/usr/bin/qemu-img "\$@"
EOF
chmod +x "$work/qemu" "$work/qemu-img"
cd "$REPO"
KUBEVIRT_TEST_QEMU=$work/qemu cargo test -q -p kubevirt-stream --test qemu -- --ignored --nocapture
KUBEVIRT_TEST_QEMU=$work/qemu KUBEVIRT_TEST_QEMU_IMG=$work/qemu-img KUBEVIRT_TEST_GUEST=$guest \
  cargo test -q -p virt-launcher --test qemu -- --ignored --test-threads 1 --nocapture "$@"
