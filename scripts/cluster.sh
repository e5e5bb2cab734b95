#!/bin/bash
# cluster.sh up|down: a Kubernetes cluster for the end-to-end tests.
# up    uses the cluster that the user's KUBECONFIG names, or a kind cluster of ours: one that is well
#       is kept, one that isn't is made anew. Installs and builds whatever is missing.
# down  removes that kind cluster and stops the Docker engine that up started.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

KIND=${KIND:-kind}
audit=$CACHE/audit

install_kind() {
  have "$KIND" && return
  have go || fail "kind is neither on PATH nor named by KIND, and without Go it can't be installed"
  say "installing kind $KIND_VERSION (about 45 s)"
  (cd / && GOBIN=$CACHE/bin go install "sigs.k8s.io/kind@$KIND_VERSION")
}

# The node image: the user's, else one built earlier, else kind's own where it can be pulled, else one built now.
choose_image() {
  built=
  if [[ -n ${KIND_NODE_IMAGE:-} ]]; then
    image=$KIND_NODE_IMAGE
  elif ! ls -d "$CACHE"/kubernetes-* >/dev/null 2>&1 && pull_default_image; then
    image=$default_image
  else
    image=$("$REPO/scripts/node-image.sh")
  fi
  if [[ $image == kubevirt-rs/node:* ]]; then built=1; fi
}

# The name of kind's own image is in kind's binary.
pull_default_image() {
  default_image=$(grep -aoEm1 'kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}' "$(command -v "$KIND")" | head -n 1)
  say "trying to pull $default_image"
  timeout 600 docker pull -q "$default_image" >/dev/null 2>&1
}

# kubectl comes with the node, where the machine has none.
install_kubectl() {
  have kubectl && return
  mkdir -p "$CACHE/bin"
  docker cp -L "$KIND_CLUSTER-control-plane:/usr/bin/kubectl" "$CACHE/bin/kubectl"
}

nodes() { "$KIND" get nodes --name "$KIND_CLUSTER" 2>/dev/null | sort; }

# What the cluster was made of, and since when its nodes run: one that was restarted has lost its routes.
fingerprint() {
  key_of "${KIND_NODE_IMAGE:-}" "$KIND_VERSION" "$KUBERNETES_VERSION" e2e/kind.yaml scripts/{audit-policy.yaml,pod-network.sh}
  # shellcheck disable=SC2046 # a list of names
  docker inspect -f '{{.Id}} {{.State.Running}} {{.State.StartedAt}}' $(nodes)
}

# The same three nodes run since the cluster was made, and the API server calls every one ready.
is_well() {
  [[ $(nodes | wc -l) -eq 3 && $(fingerprint) == $(cat "$CACHE/cluster" 2>/dev/null) ]] || return 1
  "$KIND" get kubeconfig --name "$KIND_CLUSTER" >"$KUBECONFIG.new" 2>/dev/null && chmod 600 "$KUBECONFIG.new" && mv "$KUBECONFIG.new" "$KUBECONFIG"
  kubectl wait --for=condition=Ready nodes --all --timeout=30s >/dev/null 2>&1
}

# A cluster's control plane has processors of its own. Here it shares them with emulated guests, which take all there are:
# without a greater share the API server stands still for seconds (measured: 2 % of two processors for 2 s).
give_control_plane_its_share() {
  docker update --cpu-shares 4096 "$KIND_CLUSTER-control-plane" >/dev/null ||
    say "the control plane has no greater share of the processors than a worker: under load it may answer late"
}

is_limited() {
  [[ $(stat -fc %T /sys/fs/cgroup) != cgroup2fs ]] && return
  ! (((16#$(sed -n 's/^CapBnd:\t//p' /proc/self/status) >> 24) & 1))
}

create() {
  local drop=() config=$CACHE/kind.yaml
  choose_image
  [[ -n $built ]] || drop+=(-e '/# if: built$/d')
  is_limited || drop+=(-e '/# if: limited$/d')
  mkdir -p "$audit/policy"
  rm -f "$audit"/*.log
  : >"$audit/audit.log" # ours to read; the API server, root in its node, appends to it
  cp "$REPO/scripts/audit-policy.yaml" "$audit/policy/policy.yaml"
  sed "${drop[@]}" -e 's/ *# if: [a-z]*$//' -e "s|@AUDIT@|$audit|; s|@POD_SUBNET@|$POD_SUBNET|" "$REPO/e2e/kind.yaml" >"$config"
  say "creating the kind cluster $KIND_CLUSTER from $image"
  "$KIND" create cluster --name "$KIND_CLUSTER" --image "$image" --config "$config" --kubeconfig "$KUBECONFIG" --retain -q || {
    rm -rf "$CACHE/kind-logs"
    "$KIND" export logs --name "$KIND_CLUSTER" -q "$CACHE/kind-logs" || true
    fail "kind create cluster: the nodes' logs are in $CACHE/kind-logs, the next run makes the cluster anew"
  }
  install_kubectl
  if [[ -n $built ]]; then
    # shellcheck disable=SC2046 # a list of names
    "$REPO/scripts/pod-network.sh" $(nodes)
  fi
  wait_for 180 "every node to be ready" kubectl wait --for=condition=Ready nodes --all --timeout=10s
  wait_for 60 "the default service account" kubectl get serviceaccount default
  fingerprint >"$CACHE/cluster"
}

up() {
  if [[ $CLUSTER_KIND == own ]]; then
    kubectl version >/dev/null 2>&1 || fail "no API server answers with KUBECONFIG=$KUBECONFIG (unset it to have a kind cluster made)"
    say "using the cluster of KUBECONFIG=$KUBECONFIG"
    return
  fi
  only_one cluster
  "$REPO/scripts/docker.sh" up
  # shellcheck source=scripts/env.sh
  source "$REPO/scripts/env.sh" # the engine may be ours since just now
  install_kind
  if is_well; then
    say "the kind cluster $KIND_CLUSTER is well"
  else
    if [[ -n $(nodes) ]]; then
      say "the kind cluster $KIND_CLUSTER isn't well: making it anew"
      "$KIND" delete cluster --name "$KIND_CLUSTER" --kubeconfig "$KUBECONFIG"
    fi
    create
  fi
  give_control_plane_its_share
  kubectl get nodes >&2
  echo "export KUBECONFIG=$KUBECONFIG${DOCKER_HOST:+ DOCKER_HOST=$DOCKER_HOST}"
}

down() {
  [[ $CLUSTER_KIND == kind ]] || { say "KUBECONFIG names a cluster that isn't ours: nothing to remove"; return; }
  if have "$KIND" && have docker && docker version >/dev/null 2>&1; then
    "$KIND" delete cluster --name "$KIND_CLUSTER" --kubeconfig "$KUBECONFIG"
  fi
  "$REPO/scripts/docker.sh" down
  rm -rf "$KUBECONFIG" "$CACHE/cluster" "$audit"
}

case ${1:-} in
  up | down) "$1" ;;
  *) fail "usage: $0 up|down" ;;
esac
