#!/bin/bash
# minimal-root.sh ROOT OUT PATH...: copies the paths (globs allowed, in their /usr form) from a Debian
# root to OUT with everything that the programs among them are linked with, and nothing else.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

root=$(realpath "$1") out=$2
shift 2
libraries=/usr/lib/x86_64-linux-gnu
declare -A wanted

# want PATH: the path, what it links to, and the libraries of what it is.
want() {
  local path=$1 target library
  [[ $path =~ ^/(bin|sbin|lib|lib64)/ ]] && path=/usr$path
  [[ -z ${wanted[$path]:-} ]] || return 0
  [[ -e $root$path || -L $root$path ]] || fail "minimal-root: $root has no $path"
  wanted[$path]=1
  if [[ -L $root$path ]]; then
    target=$(readlink "$root$path")
    [[ $target == /* ]] || target=$(realpath -ms "$(dirname "$path")/$target")
    want "$target"
  elif [[ -f $root$path && $(head -c 4 "$root$path" | tr -d '\0') == $'\x7fELF' ]]; then
    while read -r library; do
      [[ $library == "$root"/* ]] || fail "minimal-root: $path needs $library, which isn't in $root"
      want "${library#"$root"}"
    done < <("$root$libraries/ld-linux-x86-64.so.2" --library-path "$root$libraries" --list "$root$path" 2>/dev/null |
      sed -n 's/.* => \(\/[^ ]*\) .*/\1/p')
  elif [[ -d $root$path ]]; then
    while read -r target; do want "${target#"$root"}"; done < <(find "$root$path" ! -type d)
  fi
}

for pattern in "$@"; do
  matched=
  # shellcheck disable=SC2086 # the glob is meant
  for path in $root$pattern; do
    want "${path#"$root"}"
    matched=1
  done
  [[ -n $matched ]] || fail "minimal-root: nothing matches $pattern"
done
want "$libraries/ld-linux-x86-64.so.2"
want /usr/lib64/ld-linux-x86-64.so.2

mkdir -p "$out"
for directory in bin sbin lib lib64; do
  mkdir -p "$out/usr/$directory"
  ln -sfn "usr/$directory" "$out/$directory"
done
printf '.%s\n' "${!wanted[@]}" | tar -C "$root" --no-recursion -cT - | tar -C "$out" -x
