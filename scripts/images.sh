#!/bin/bash
# images.sh [cloud-guest]: builds every component's image for both releases, and brings them into the cluster.
# With cloud-guest it is that one image only, which takes minutes and is wanted by make e2e SUITE=vm alone.
# A release's image holds the same binary as the other's; what differs is /etc/kubevirt-release.
# Versions that are broken on purpose are made of them for make e2e SUITE=faults: images/faulty/faults.
# On the kind cluster the images are loaded into the nodes; elsewhere they are pushed to IMAGE_REGISTRY.
# BINARIES=DIR takes the binaries from there instead of building them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

components=(virt-operator virt-api virt-controller virt-handler virt-launcher)
KIND=${KIND:-kind}
registry=${IMAGE_REGISTRY:-kubevirt}
launcher_root=$(launcher_root)
guest=$(tick_guest)

build_binaries() {
  [[ -z ${BINARIES:-} ]] || return 0
  BINARIES=$CARGO_TARGET_DIR/$RUST_TARGET/release
  say "building the binaries (log: $CACHE/cargo.log)"
  build_release >"$CACHE/cargo.log" 2>&1 || {
    tail -n 40 "$CACHE/cargo.log" >&2
    fail "cargo build"
  }
  install -D "$BINARIES/virtctl" "$CACHE/bin/virtctl"
  ln -sf virtctl "$CACHE/bin/kubectl-virt" # kubectl virt
}

# build TAG DOCKERFILE FILE...: an image of just these files (and of image GOOD, where that is set), unless the tag's
# image is of the same ones already.
build() {
  local tag=$1 dockerfile=$2 context key
  shift 2
  key=$(cat "$dockerfile" <(echo "$launcher_root") <(find "$@" -type f -exec cat {} +) | sha256sum)
  [[ $(docker image inspect -f '{{.Config.Labels.key}}' "$tag" 2>/dev/null) != "${key%% *}" ]] || return 0
  context=$(mktemp -d)
  cp -r "$dockerfile" "$@" "$context/"
  docker build -q --label "key=${key%% *}" ${GOOD:+--build-arg "GOOD=$GOOD"} -t "$tag" "$context" >/dev/null 2>"$CACHE/docker-build.log" || {
    cat "$CACHE/docker-build.log" >&2
    fail "docker build $tag"
  }
  rm -rf "$context"
}

build_images() {
  local release name root_image=kubevirt-rs/launcher-root
  cached "$launcher_root" "$REPO/scripts/launcher-root.sh"
  cached "$guest" "$REPO/scripts/tick-guest.sh"
  if ! docker image inspect "$root_image:${launcher_root##*-}" >/dev/null 2>&1; then
    docker import "$launcher_root/root.tar" "$root_image:${launcher_root##*-}" >/dev/null
  fi
  docker tag "$root_image:${launcher_root##*-}" "$root_image:latest"
  say "building the images of ${RELEASES[*]}"
  mkdir -p "$CACHE/release"
  for release in "${RELEASES[@]}"; do
    echo "$release" >"$CACHE/release/kubevirt-release"
    for name in "${components[@]}"; do
      build "$registry/$name:$release" "$REPO/images/$name/Dockerfile" "$BINARIES/$name" "$CACHE/release/kubevirt-release"
      tags+=("$registry/$name:$release")
    done
    build "$registry/tick-guest:$release" "$REPO/images/tick-guest/Dockerfile" "$guest"/{boot,disk,bin}
    tags+=("$registry/tick-guest:$release")
  done
}

# One tag is enough: it belongs to no release.
build_cloud_guest() {
  local path tag=$registry/cloud-guest:${RELEASES[-1]}
  path=$(cloud_guest)
  cached "$path" "$REPO/scripts/cloud-guest.sh"
  build "$tag" "$REPO/images/cloud-guest/Dockerfile" "$path/disk"
  tags+=("$tag")
}

# build_fault NAME COMPONENT FAULT...: the registry of one version that is broken on purpose.
build_fault() {
  local name=$1 component=$2 release=${RELEASES[-1]} fault=$CACHE/faults/$1 other good tag
  shift 2
  mkdir -p "$fault"
  echo "$*" >"$fault/kubevirt-fault"
  for other in "${components[@]}"; do
    good=$registry/$other:$release
    tag=$registry-fault-$name/$other:$release
    if [[ $other != "$component" ]]; then
      docker tag "$good" "$tag"
    elif [[ $1 != missing ]]; then
      docker image inspect -f '{{.Id}}' "$good" >"$fault/good"
      GOOD=$good build "$tag" "$REPO/images/faulty/Dockerfile" "$BINARIES/faulty" "$fault/kubevirt-fault" "$fault/good"
    else
      continue
    fi
    tags+=("$tag")
  done
}

build_faults() {
  local words
  say "building the versions that are broken on purpose"
  while read -ra words; do
    [[ -z ${words[*]} || ${words[0]} == "#" ]] || build_fault "${words[@]}"
  done <"$REPO/images/faulty/faults"
}

# Each node keeps a list of what was loaded into it; only what isn't on every node's list is loaded.
load_images() {
  local list=/kind/loaded-images nodes node tag id wanted loaded missing=()
  nodes=$("$KIND" get nodes --name "$KIND_CLUSTER" 2>/dev/null)
  [[ -n $nodes ]] || fail "there is no kind cluster $KIND_CLUSTER: make cluster"
  wanted=$(for tag in "${tags[@]}"; do echo "$tag $(docker image inspect -f '{{.Id}}' "$tag")"; done)
  loaded=$(for node in $nodes; do docker exec "$node" cat "$list" 2>/dev/null || true; done)
  while read -r tag id; do
    [[ $(grep -cxF "$tag $id" <<<"$loaded") -eq $(wc -w <<<"$nodes") ]] || missing+=("$tag")
  done <<<"$wanted"
  if ((!${#missing[@]})); then
    say "the nodes have all ${#tags[@]} images"
    return
  fi
  archive=$(mktemp "$CACHE/images.XXXXXX.tar")
  trap 'rm -f "$archive" "$archive.list"' EXIT
  say "loading ${#missing[@]} images into the nodes: ${missing[*]}"
  docker save -o "$archive" "${missing[@]}"
  "$KIND" load image-archive "$archive" --name "$KIND_CLUSTER" -q
  for node in $nodes; do
    # What else is loaded stays on the list, but for what these tags named before.
    { docker exec "$node" cat "$list" 2>/dev/null || true; } |
      awk 'NR == FNR { wanted[$1]; print; next } !($1 in wanted)' <(echo "$wanted") - >"$archive.list"
    docker exec -i "$node" tee "$list" >/dev/null <"$archive.list"
  done
}

push_images() {
  local tag
  for tag in "${tags[@]}"; do
    say "pushing $tag"
    docker push -q "$tag" >/dev/null
  done
}

[[ $CLUSTER_KIND == kind || -n ${IMAGE_REGISTRY:-} ]] ||
  fail "KUBECONFIG names your own cluster: set IMAGE_REGISTRY to a registry that its nodes pull from"
only_one images
"$REPO/scripts/docker.sh" up
# shellcheck source=scripts/env.sh
source "$REPO/scripts/env.sh" # the engine may be ours since just now
tags=()
case ${1:-} in
  '')
    build_binaries
    build_images
    build_faults
    ;;
  cloud-guest) build_cloud_guest ;;
  *) fail "usage: images.sh [cloud-guest]" ;;
esac
if [[ $CLUSTER_KIND == kind ]]; then load_images; else push_images; fi
docker images --format 'table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}' | grep -E "^(REPOSITORY|$registry/)"
docker image prune -f >/dev/null # what these tags named before
