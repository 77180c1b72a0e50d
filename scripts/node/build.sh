#!/bin/bash
# Makes a node image for kind from Debian packages and programs of ours:
#
#   KUBERNETES_VERSION=v1.36.3 scripts/node/build.sh PROGRAMS OUTPUT
#
# PROGRAMS is a folder with the static programs named in "programs" below.
# OUTPUT is a folder; in it are made
#   node.tar      the root file system of a node, for docker import
#   iptables.tar  iptables and what it needs, the base layer of kube-proxy's image
#
# DEBIAN_SUITE   the Debian release (default bookworm, the last one whose systemd
#                starts on cgroup v1)
# DEBIAN_MIRROR  where packages come from (default: debootstrap's own)
# PAUSE_IMAGE    the sandbox image of pods (default: the one that kubeadm names)
#
# It needs root and debootstrap, and 2 GB for a short while. Its work folder is
# below OUTPUT and is removed however it ends; nothing outside OUTPUT is changed.
set -euo pipefail

programs=(containerd containerd-shim-runc-v2 ctr kubelet kubeadm kubectl node-network)
plugins=(host-local loopback portmap ptp)
packages=(systemd iproute2 iptables nftables conntrack ethtool kmod procps util-linux mount runc ca-certificates)

fail() {
  echo "node image: $*" >&2
  exit 1
}

say() { echo "node image: $*"; }

[[ $# == 2 ]] || fail "usage: KUBERNETES_VERSION=vX.Y.Z $0 PROGRAMS OUTPUT"
[[ -n ${KUBERNETES_VERSION:-} ]] || fail "KUBERNETES_VERSION is not set; give the version of the programs, such as v1.36.3"
[[ $(id -u) == 0 ]] || fail "root is needed, since debootstrap installs packages into a folder; run it as root on Debian or the like, or use kind's own image from a registry"
for tool in debootstrap unshare wget; do
  command -v "$tool" >/dev/null || fail "$tool is not installed; on Debian: apt-get install debootstrap debian-archive-keyring util-linux wget"
done

# What debootstrap mounts vanishes with this mount namespace, however it ends.
if [[ ${NODE_IMAGE_NAMESPACE:-} != 1 ]]; then
  NODE_IMAGE_NAMESPACE=1 exec unshare --mount --propagation private -- "$BASH" "$0" "$@"
fi

recipe=$(cd "$(dirname "$0")" && pwd)
from=$(cd "$1" && pwd) || fail "the folder of the programs, $1, is not there"
mkdir -p "$2"
output=$(cd "$2" && pwd)
suite=${DEBIAN_SUITE:-bookworm}
mirror=${DEBIAN_MIRROR:-}
origin=${mirror:-the usual mirror}
for name in "${programs[@]}" "${plugins[@]}"; do
  [[ -f $from/$name ]] || fail "the program $name is not in $from"
done
free=$(df --output=avail -k "$output" | tail -n 1)
((free > 2 << 20)) || fail "$((free / 1024)) MB are free in $output; 2048 MB are needed for a short while"

work=$(mktemp -d "$output/work.XXXXXX")
job=
finish() {
  local code=$? mount
  if [[ -n $job ]]; then
    kill -TERM -- "-$job" 2>/dev/null || true
    wait "$job" 2>/dev/null || true
    kill -KILL -- "-$job" 2>/dev/null || true
  fi
  # A folder must not be removed through a mount that is still in it.
  while read -r mount; do
    umount --lazy "$mount" || true
  done < <(awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac)
  if [[ $code != 0 ]] && (($(df --output=avail -k "$output" | tail -n 1) < 16 << 10)); then
    echo "node image: the disk of $output is full; free 2 GB, or use a folder on another disk" >&2
  fi
  rm -rf --one-file-system "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
root=$work/root

say "packages of Debian $suite from $origin (about a minute)"
list=$(IFS=,; echo "${packages[*]}")
# A mirror that swallows packets would be waited for a quarter of an hour.
printf 'timeout = 20\ntries = 2\n' >"$work/wgetrc"
# As a job of its own it can be ended with all that it started, at any moment.
set -m
WGETRC=$work/wgetrc debootstrap --force-check-gpg --variant=minbase --include="$list" \
  "$suite" "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1 </dev/null &
job=$!
set +m
code=0
wait "$job" || code=$?
job=
if [[ $code != 0 ]]; then
  tail -n 10 "$work/log" >&2
  if grep -qiE "failed getting release|couldn't download|couldn't retrieve|invalid release" "$work/log"; then
    fail "Debian $suite could not be had from $origin; give one that this machine reaches as DEBIAN_MIRROR, or a proxy as http_proxy"
  fi
  [[ ! -f $root/debootstrap/debootstrap.log ]] || tail -n 20 "$root/debootstrap/debootstrap.log" >&2
  fail "debootstrap failed; its last words stand above"
fi

say "what a node does not need is taken out"
(
  cd "$root"
  rm -rf var/{backups,cache,lib,log,mail,spool} debootstrap
  rm -rf usr/share/{doc,man,info,locale,lintian,bug,common-licenses,bash-completion,zsh,perl5}
  rm -rf usr/lib/{apt,udev} usr/lib/systemd/{catalog,network} etc/apt etc/cron.* etc/machine-id
  rm -rf usr/share/{i18n,zoneinfo} usr/lib/*/{perl-base,gconv} usr/bin/{perl*,apt*,dpkg*}
  mkdir -p var/{cache,lib,log,spool} tmp run
  # The kernel's settings are the machine's; the overlay has those of a node.
  rm -rf usr/lib/sysctl.d etc/sysctl.d etc/sysctl.conf usr/lib/modules-load.d etc/modules-load.d
  # Only the journal and the settings start before a node's own units.
  rm -rf etc/systemd/system/*.wants
  find usr/lib/systemd/system -path '*.wants/*' \
    ! -name 'systemd-journald*.service' ! -name 'systemd-journald.socket' \
    ! -name 'systemd-journald-dev-log.socket' ! -name systemd-sysctl.service -delete
  ln -sf /usr/lib/systemd/systemd usr/sbin/init
  ln -sf multi-user.target usr/lib/systemd/system/default.target
  ln -sf /dev/null etc/systemd/system/systemd-binfmt.service
)

say "programs and settings of a node, $KUBERNETES_VERSION"
for name in "${programs[@]}"; do
  install -D -m 755 "$from/$name" "$root/usr/bin/$name"
done
mkdir -p "$root/kind/bin"
mv "$root/usr/bin/node-network" "$root/kind/bin/"
for name in "${plugins[@]}"; do
  install -D -m 755 "$from/$name" "$root/opt/cni/bin/$name"
done
pause=${PAUSE_IMAGE:-$(chroot "$root" kubeadm config images list --kubernetes-version "$KUBERNETES_VERSION" | grep /pause:)}
[[ -n $pause ]] || fail "kubeadm names no pause image for $KUBERNETES_VERSION"
while IFS= read -r file; do
  mode=644
  [[ $(head -c 2 "$recipe/rootfs/$file") != '#!' ]] || mode=755
  mkdir -p "$root/$(dirname "$file")"
  sed "s|@PAUSE_IMAGE@|$pause|g" "$recipe/rootfs/$file" >"$root/$file"
  chmod "$mode" "$root/$file"
done < <(cd "$recipe/rootfs" && find . -type f -printf '%P\n')
echo -n "$KUBERNETES_VERSION" >"$root/kind/version"
mkdir -p "$root"/etc/{kubernetes/manifests,cni/net.d,containerd/certs.d} "$root/etc/systemd/system/multi-user.target.wants"
for unit in containerd kubelet; do
  ln -sf "/etc/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/"
done

say "iptables for kube-proxy"
layer=$work/iptables
mkdir -p "$layer"
(
  cd "$root"
  tools=(usr/bin/dash usr/sbin/xtables-nft-multi usr/sbin/xtables-legacy-multi usr/sbin/nft usr/sbin/conntrack)
  modules=(usr/lib/*/xtables)
  libraries=$(chroot . ldd "${tools[@]/#//}" "/${modules[0]}"/*.so 2>/dev/null |
    grep -o '/[^ ]*' | grep -v ':$' | sort -u)
  for link in bin sbin lib lib64; do
    [[ ! -e $link ]] || cp -a "$link" "$layer/"
  done
  cp -a --parents "${tools[@]}" "${modules[@]}" "$layer/"
  for library in $libraries; do
    real=$(chroot . readlink -f "$library")
    mkdir -p "$layer$(chroot . readlink -f "$(dirname "$library")")" "$layer$(dirname "$real")"
    cp -aL "./$real" "$layer$(chroot . readlink -f "$(dirname "$library")")/$(basename "$library")"
  done
  ln -s dash "$layer/usr/bin/sh"
  install -m 755 "$recipe/iptables" "$layer/usr/sbin/iptables"
  for name in {iptables,ip6tables}{,-save,-restore}; do
    [[ $name == iptables ]] || ln -s iptables "$layer/usr/sbin/$name"
  done
  mkdir -p "$layer/run" "$layer/tmp" "$layer/etc"
)
for command in "xtables-nft-multi iptables --version" "xtables-legacy-multi iptables --version" "nft --version" "conntrack --version"; do
  # shellcheck disable=SC2086 # a command and its argument
  chroot "$layer" $command >/dev/null || fail "$command does not run on the layer for kube-proxy: a library is missing from it"
done

say "archives"
for part in "node $root" "iptables $layer"; do
  read -r name folder <<<"$part"
  tar --create --file "$work/$name.tar" --directory "$folder" --sort=name --mtime=@0 \
    --owner=0 --group=0 --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' .
done
mv "$work/node.tar" "$work/iptables.tar" "$output/"
say "done: $(du -h "$output/node.tar" | cut -f1) node.tar, $(du -h "$output/iptables.tar" | cut -f1) iptables.tar"
