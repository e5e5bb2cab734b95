#!/bin/bash
# e2e.sh demo|test|suite NAME: builds the e2e program and runs it against the cluster.
# The program does the work; it finds the cluster in KUBECONFIG and the API server's audit log in
# AUDIT_LOG (not there on a cluster of your own).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

[[ -e $KUBECONFIG || $CLUSTER_KIND == own ]] || fail "there is no cluster: make cluster"
[[ $CLUSTER_KIND == kind ]] || unset AUDIT_LOG
build_release
[[ $* != "suite vm"* ]] || "$REPO/scripts/images.sh" cloud-guest
cd "$REPO"
exec "$CARGO_TARGET_DIR/$RUST_TARGET/release/e2e" "$@"
