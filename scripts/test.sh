#!/bin/bash
# test.sh: everything that has to hold before a change lands, on a machine that may have nothing.
# The cluster comes up in the background, at low priority, while the code is checked.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

[[ $CLUSTER_KIND == kind || -n ${IMAGE_REGISTRY:-} ]] ||
  fail "KUBECONFIG names your own cluster: set IMAGE_REGISTRY to a registry that its nodes pull from"
logs=$CACHE/logs
mkdir -p "$logs"
cd "$REPO"

# step NAME COMMAND...: runs it with its output in a log, says every half minute how far it is.
step() {
  local name=$1 log=$logs/$1.log start=$SECONDS said=$SECONDS pid
  shift
  say "$name (log: $log)"
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    if ((SECONDS - said >= 30)); then
      said=$SECONDS
      say "$name: $((SECONDS - start)) s: $(tail -n 1 "$log" | cut -c1-100)"
    fi
  done
  wait "$pid" || {
    tail -n 80 "$log" >&2
    fail "$name (log: $log)"
  }
  say "$name: ok, $((SECONDS - start)) s"
}

unit() {
  step unit cargo test --workspace --no-fail-fast
  sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$logs/unit.log" |
    awk '{ passed += $1; failed += $2; skipped += $3 } END { printf "unit: %d passed, %d failed, %d skipped\n", passed, failed, skipped }'
}

setsid nice -n 5 scripts/cluster.sh up >"$logs/cluster.log" 2>&1 &
cluster=$!
trap 'kill -- -$cluster 2>/dev/null || true' EXIT # a failed check needs no cluster

step check make --no-print-directory check
unit
step build make --no-print-directory build
say "waiting for the cluster (log: $logs/cluster.log)"
wait "$cluster" || {
  tail -n 40 "$logs/cluster.log" >&2
  fail "make cluster (log: $logs/cluster.log)"
}
trap - EXIT
step images scripts/images.sh
step qemu scripts/qemu-test.sh
say "end to end"
scripts/e2e.sh test
