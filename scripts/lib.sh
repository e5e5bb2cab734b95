# shellcheck shell=bash
# The few verbs that every script uses: say, fail, wait, install, hash.

# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null; }

# wait_for SECONDS WHAT COMMAND...: runs the command until it succeeds, and says what it waited for.
wait_for() {
  local seconds=$1 what=$2 start=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS - start < seconds)) || fail "waited $seconds s for $what"
    sleep 0.5
  done
  say "$what: $((SECONDS - start)) s"
}

# only_one NAME: waits until no other script of that name runs on this cache.
only_one() {
  mkdir -p "$CACHE"
  exec 8>"$CACHE/$1.lock"
  flock -n 8 || { say "waiting for another run of $1"; flock 8; }
}

# need_packages PACKAGE...: installs the Debian packages that are missing.
need_packages() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if [[ $EUID -ne 0 ]] || ! have apt-get; then fail "please install: ${missing[*]}"; fi
  say "apt-get install ${missing[*]}"
  mkdir -p "$CACHE"
  (
    flock 9
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 9>&- ||
      { tail -n 20 "$CACHE/apt.log" >&2; fail "apt-get install ${missing[*]}"; }
  ) 9>"$CACHE/apt.lock"
}

# claim_target: makes cargo build this checkout's code. Cargo takes the same package in two checkouts for one, and a file
# for unchanged by its time: in the target directory that all checkouts share, what another has built would pass for
# this one's. Who built last is noted there; for another, every source counts as changed.
claim_target() {
  local note=$CARGO_TARGET_DIR/checkout
  [[ $(cat "$note" 2>/dev/null || true) != "$REPO" ]] || return 0
  mkdir -p "$CARGO_TARGET_DIR"
  find "$REPO" -name target -prune -o -name '*.rs' -exec touch {} +
  echo "$REPO" >"$note"
}

# build_release: every binary in one go, always with the same features, so that nothing is built twice.
build_release() {
  claim_target
  (cd "$REPO" && cargo build --release --workspace --bins)
}

# key_of WORD...: a short hash of the words, and of the contents of those that name a file of the repo:
# names what is made of them in the cache.
key_of() {
  local word
  for word in "$@"; do
    echo "$word"
    [[ ! -f $REPO/$word ]] || cat "$REPO/$word"
  done | sha256sum | cut -c1-12
}

# Where the launcher image's root and the guests are, once scripts/images.sh has made them.
launcher_root() { echo "$CACHE/launcher.root-$(key_of "$QEMU_SUITE" scripts/{launcher-root,minimal-root}.sh)"; }
tick_guest() { echo "$CACHE/tick.guest-$(key_of scripts/tick-guest.sh images/tick-guest/{init,lease})"; }
cloud_guest() {
  local files
  mapfile -t files < <(cd "$REPO" && find images/cloud-guest -type f ! -name Dockerfile | sort)
  echo "$CACHE/cloud.guest-$(key_of "$GUEST_SUITE" scripts/cloud-guest.sh "${files[@]}")"
}

# cached PATH COMMAND...: runs the command with the path of a new empty directory as its last argument,
# and puts that at PATH when it succeeded, unless it is there from an earlier run.
# Directories beside it with the same name up to the last dash are of older pins, and go.
cached() {
  local path=$1 old
  shift
  [[ ! -d $path ]] || return 0
  rm -rf "$path.new"
  mkdir -p "$path.new"
  "$@" "$path.new"
  for old in "${path%-*}"-*; do [[ $old == "$path.new" ]] || rm -rf "$old"; done
  mv "$path.new" "$path"
}
