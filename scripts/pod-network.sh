#!/bin/bash
# pod-network.sh NODE...: the pod network of a cluster whose node image has no kindnet.
# Each node gets a ptp network of its own range, and a route to every other node's.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

declare -A range address
for node in "$@"; do
  range_known() { [[ -n $(kubectl get node "$node" -o 'jsonpath={.spec.podCIDR}') ]]; }
  wait_for 60 "$node's pod range" range_known
  range[$node]=$(kubectl get node "$node" -o 'jsonpath={.spec.podCIDR}')
  address[$node]=$(kubectl get node "$node" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')
done

for node in "$@"; do
  {
    for other in "$@"; do
      [[ $other == "$node" ]] || echo "ip route replace ${range[$other]} via ${address[$other]}"
    done
    cat <<CONF
mkdir -p /etc/cni/net.d
cat >/etc/cni/net.d/10-ptp.conflist <<'JSON'
{
  "cniVersion": "0.4.0",
  "name": "ptp",
  "plugins": [
    {
      "type": "ptp",
      "mtu": 1500,
      "ipMasq": false,
      "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "${range[$node]}"}]]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
CONF
  } | docker exec -i "$node" bash -e
done
