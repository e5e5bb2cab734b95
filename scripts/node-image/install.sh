#!/bin/bash
# Runs once in a container of the node's Debian root, with what to install at /context:
# the steps of kind's images/base/Dockerfile and of `kind build node-image`.
set -euo pipefail

cp -r /context/files/. /
chmod 755 /usr/local/bin/* /kind /kind/bin /kind/bin/*
install -m 755 /context/kubernetes /usr/local/bin/kubernetes
for name in kubeadm kubelet kubectl; do ln -s ../local/bin/kubernetes /usr/bin/$name; done
ln -s /usr/bin/containerd /usr/bin/ctr /usr/local/bin/
mkdir -p /opt/cni/bin /etc/kubernetes/manifests
cp /usr/lib/cni/* /opt/cni/bin/

install -m 644 /context/version /kind/version
mkdir -p /kind/manifests
: >/kind/manifests/default-cni.yaml
install -m 644 /context/default-storage.yaml /kind/manifests/

# A container's systemd runs what kind enables and nothing of the distribution's.
rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
  /lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* /etc/systemd/system/*.wants/* \
  /lib/systemd/system/sockets.target.wants/*{udev,initctl}*
echo ReadKMsg=no >>/etc/systemd/journald.conf
systemctl enable kubelet.service containerd.service undo-mount-hacks.service
systemctl mask systemd-binfmt.service

ctr oci spec |
  jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >/etc/containerd/cri-base.json

containerd >/dev/null 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
ctr -n k8s.io images import --all-platforms --no-unpack /context/images.tar
kill $!
wait $! || true
rm -rf /context /var/lib/apt/lists /var/cache/apt /usr/share/{doc,man,locale}
