#!/bin/bash
# docker.sh up|down: a Docker engine that answers. One that is there is used; where none is, Debian's
# is installed and started with a data root, a socket and a pid file of its own.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

home=$CACHE/docker
socket=unix://$RUN_DIR/docker.sock
pid_file=$RUN_DIR/docker.pid

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The pid file of an engine that crashed may name a process that is somebody else's by now.
running_pid() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == */dockerd ]] && echo "$pid"
}

# A dying engine's process may still be there at the first look, so every look may start a new one.
answers_or_start() {
  answers && return
  running_pid >/dev/null || {
    rm -f "$pid_file" "$RUN_DIR/docker/containerd/containerd.pid"
    setsid nohup dockerd "$@" </dev/null >>"$home/dockerd.log" 2>&1 8>&- &
    sleep 1 # until it has written its pid file
  }
  return 1
}

lacks_sys_resource() {
  local bounding
  bounding=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
  ((!((16#$bounding >> 24) & 1)))
}

start() {
  only_one docker
  need_packages docker.io containerd runc iptables jq ca-certificates
  have docker || need_packages docker-cli # from Debian 13 on a package of its own
  if [[ -z ${DOCKER_HOST:-} ]] && answers; then return; fi # started by its package
  mkdir -p "$home" "$RUN_DIR"
  local options=(--data-root "$home/data" --exec-root "$RUN_DIR/docker" --pidfile "$pid_file" --host "$socket" --log-level warn)
  if lacks_sys_resource; then
    install -m 755 "$REPO/scripts/runc-without-sys-resource" "$home/runc-without-sys-resource"
    options+=(--add-runtime "trimmed=$home/runc-without-sys-resource" --default-runtime trimmed)
  fi
  # A node needs more inotify instances than most kernels' 128 allow; where that can't be set, kind says so.
  sysctl -qw fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576 2>/dev/null || true
  export DOCKER_HOST=$socket
  wait_for 60 "Docker's engine (log: $home/dockerd.log)" answers_or_start "${options[@]}"
}

case ${1:-} in
  up)
    have docker && answers && exit 0
    [[ -z ${DOCKER_HOST:-} || $DOCKER_HOST == "$socket" ]] || fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
    [[ $EUID -eq 0 ]] || fail "no Docker engine answers: start one, set DOCKER_HOST, or run this as root"
    start
    ;;
  down)
    pid=$(running_pid) || exit 0
    if [[ -n $(docker -H "$socket" ps -q) ]]; then
      say "our Docker engine stays: it runs other containers"
      exit 0
    fi
    say "stopping our Docker engine"
    kill "$pid"
    wait_for 60 "the engine's end" test ! -e "/proc/$pid"
    ;;
  *) fail "usage: $0 up|down" ;;
esac
