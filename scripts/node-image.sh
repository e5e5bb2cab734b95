#!/bin/bash
# node-image.sh: builds a kind node image where none can be pulled, and prints its name.
# Kubernetes comes from the Go module proxy as one binary (about 8 minutes on two cores, once),
# the rest from Debian; the layout is kind's own, taken from kind's module.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

sources=scripts/node-image
binaries=$CACHE/kubernetes-$(key_of "$KUBERNETES_VERSION" $sources/{go.mod,go.sum,main.go,pause/main.go})
node_packages=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,bash,ca-certificates,curl,jq,procps,containerd,runc,containernetworking-plugins,hostname,socat
node_root=$CACHE/node.root-$(key_of "$DEBIAN_SUITE" $node_packages)
image=kubevirt-rs/node:$(key_of "${binaries##*/}" "${node_root##*/}" "$KIND_VERSION" "$PAUSE_IMAGE" scripts/{node-image,minimal-root}.sh $sources/{install.sh,default-storage.yaml})

build_binaries() {
  local out=$1 version_package=k8s.io/component-base/version minor=${KUBERNETES_VERSION#v1.}
  have go || fail "building Kubernetes needs Go 1.26 or newer (or set KIND_NODE_IMAGE)"
  say "building Kubernetes $KUBERNETES_VERSION (first time: about 8 minutes)"
  cd "$REPO/$sources"
  GOFLAGS=-mod=readonly CGO_ENABLED=0 nice -n 10 go build -trimpath -buildvcs=false -o "$out/" -ldflags "-s -w \
    -X $version_package.gitVersion=$KUBERNETES_VERSION -X $version_package.gitMajor=1 -X $version_package.gitMinor=${minor%%.*}" \
    . ./pause
  mv "$out/node-image" "$out/kubernetes"
}

build_node_root() {
  need_packages mmdebstrap
  say "building the node's root from Debian $DEBIAN_SUITE (about a minute)"
  mmdebstrap --quiet --variant=minbase --include="$node_packages" "$DEBIAN_SUITE" "$1/root.tar"
}

# One image that holds the binary under every component's name, and what kube-proxy calls.
build_component_images() {
  local out=$1 name component names
  mkdir -p "$work/root" "$work/component/usr/local/bin"
  tar -C "$work/root" -xf "$node_root/root.tar" ./usr ./etc ./bin ./sbin ./lib ./lib64
  "$REPO/scripts/minimal-root.sh" "$work/root" "$work/component" /usr/bin/{sh,kmod} /usr/sbin/{conntrack,nft,modprobe} \
    "/usr/sbin/ip*tables*" "/usr/sbin/xtables-*" /usr/lib/x86_64-linux-gnu/xtables /etc/{protocols,services}
  cp "$binaries/kubernetes" "$work/component/usr/local/bin/"
  for component in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd; do
    ln -s kubernetes "$work/component/usr/local/bin/$component"
  done
  mkdir "$work/component/tmp"
  tar -C "$work/component" -c . | docker import - kubevirt-rs/kubernetes >/dev/null
  ln -s "$binaries/kubernetes" "$work/kubeadm"
  names=$("$work/kubeadm" config images list --kubernetes-version "$KUBERNETES_VERSION" 2>/dev/null | grep -E '/(kube-.*|etcd):')
  for name in $names; do docker tag kubevirt-rs/kubernetes "$name"; done
  tar -C "$binaries" -c pause | docker import --change 'ENTRYPOINT ["/pause"]' - "$PAUSE_IMAGE" >/dev/null
  # shellcheck disable=SC2086 # a list of names
  docker save -o "$out" $names "$PAUSE_IMAGE"
  # shellcheck disable=SC2086
  docker rmi $names "$PAUSE_IMAGE" kubevirt-rs/kubernetes >/dev/null
}

build_image() {
  local kind_files
  kind_files=$(cd / && go mod download -json "sigs.k8s.io/kind@$KIND_VERSION" | sed -n 's/^\t"Dir": "\(.*\)",*/\1/p')/images/base/files
  say "building the node image $image"
  mkdir "$work/context"
  cp -r --no-preserve=mode "$kind_files" "$work/context/files"
  cp "$binaries/kubernetes" "$REPO/$sources"/{install.sh,default-storage.yaml} "$work/context/"
  echo "$KUBERNETES_VERSION" >"$work/context/version"
  build_component_images "$work/context/images.tar"
  docker import "$node_root/root.tar" kubevirt-rs/node-root >/dev/null
  container=$(docker create --privileged --network none kubevirt-rs/node-root bash /context/install.sh)
  trap 'docker rm -f "$container" >/dev/null; rm -rf "$work"' EXIT
  docker cp "$work/context" "$container:/context"
  docker start -a "$container" >"$CACHE/node-image.log" 2>&1 || fail "the node's installation (log: $CACHE/node-image.log)"
  docker commit "$container" kubevirt-rs/node-unnamed >/dev/null
  docker build -q -t "$image" - >>"$CACHE/node-image.log" 2>&1 <<'DOCKERFILE'
FROM kubevirt-rs/node-unnamed
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
DOCKERFILE
}

if ! docker image inspect "$image" >/dev/null 2>&1; then
  cached "$node_root" build_node_root
  cached "$binaries" build_binaries
  work=$(mktemp -d "$CACHE/node-image.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  build_image
  for old in $(docker images --format '{{.Repository}}:{{.Tag}}' kubevirt-rs/node); do
    [[ $old == "$image" ]] || docker rmi "$old" >/dev/null 2>&1 || true # in use by another cluster
  done
fi
echo "$image"
