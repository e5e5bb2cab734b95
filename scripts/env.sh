# shellcheck shell=bash
# Sourced by every script and by a user's shell: where things are and which versions they have.
# It never starts, installs or changes anything.
# shellcheck disable=SC2034 # the variables are for those that source this

# Pins. What is built from them is cached under a hash of what made it.
KUBERNETES_VERSION=v1.37.2 # staging modules and etcd: scripts/node-image/go.mod
KIND_VERSION=v0.33.0
PAUSE_IMAGE=registry.k8s.io/pause:3.10 # the one in kind's containerd config
DEBIAN_SUITE=bookworm # of the nodes: what this kind of machine runs
QEMU_SUITE=trixie # of the launcher: QEMU 10 keeps the memory of a guest that moves without KVM, 7.2 does not (docs/design/0007)
GUEST_SUITE=trixie # of the cloud guest: the first whose cloud-init is one process, and so starts fast without KVM
RELEASES=(v0.17.0 v0.18.0)
RUST_TARGET=x86_64-unknown-linux-gnu
POD_SUBNET=10.244.0.0/16
export KUBERNETES_VERSION KIND_VERSION PAUSE_IMAGE DEBIAN_SUITE QEMU_SUITE GUEST_SUITE RUST_TARGET POD_SUBNET

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${KUBEVIRT_RS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubevirt-rs}
KIND_CLUSTER=${KIND_CLUSTER:-kubevirt-rs}
CLUSTER_KUBECONFIG=$CACHE/kubeconfig
AUDIT_LOG=$CACHE/audit/audit.log
RUN_DIR=/run/kubevirt-rs # our Docker engine's socket, pid file and state: gone after a reboot, as they should be
export REPO CACHE KIND_CLUSTER AUDIT_LOG
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
export DOCKER_BUILDKIT=0 # Debian's Docker has no buildx

export PATH=$CACHE/bin:$PATH
if command -v go >/dev/null; then
  gobin=$(go env GOBIN)
  export PATH=$PATH:${gobin:-$(go env GOPATH)/bin}
fi

# The user's own cluster is used as it is; without one, a kind cluster is ours to make.
if [[ -n ${KUBECONFIG:-} && $KUBECONFIG != "$CLUSTER_KUBECONFIG" ]]; then
  CLUSTER_KIND=own
else
  CLUSTER_KIND=kind
  KUBECONFIG=$CLUSTER_KUBECONFIG
fi
export CLUSTER_KIND KUBECONFIG

# Docker: the one that DOCKER_HOST names, else ours where it was started, else the machine's.
if [[ -z ${DOCKER_HOST:-} && -S $RUN_DIR/docker.sock ]]; then
  export DOCKER_HOST=unix://$RUN_DIR/docker.sock
fi
