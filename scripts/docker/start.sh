#!/bin/bash
# Sees to a Docker daemon that runs kind, on Debian as root:
#
#   eval "export $(scripts/docker/start.sh DIR)"
#
# It prints DOCKER_HOST=… of the daemon that the environment names already, when
# that one runs privileged containers; otherwise of one of our own, all of which
# lies in DIR, and which scripts/docker/stop.sh DIR ends. Docker is installed
# where it is missing. A daemon that is there is never changed, nor disturbed:
# ours has a bridge, addresses and packet rules of its own.
#
# Nothing of this is done unasked: only whoever calls this script gets a daemon.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/docker/common.sh
. "$here/common.sh"

[[ $# == 1 ]] || fail "usage: $0 DIR"
place "$1"

install_docker() {
  local missing=()
  command -v dockerd >/dev/null && command -v docker >/dev/null || missing+=(docker.io)
  command -v iptables >/dev/null || missing+=(iptables)
  command -v ip >/dev/null || missing+=(iproute2)
  if lacks_resource && ! command -v jq >/dev/null; then missing+=(jq); fi
  [[ ${#missing[@]} != 0 ]] || return 0
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}, and there is no apt-get to install them with; install Docker, and start it"
  # From Debian 13 on, the command has a package of its own.
  say "installs ${missing[*]}"
  apt-get update >"$dir/apt.log" 2>&1 || say "apt-get update failed; what is known of packages is used"
  if [[ " ${missing[*]} " == *" docker.io "* && -n $(apt-cache search --names-only '^docker-cli$') ]]; then
    missing+=(docker-cli)
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$dir/apt.log" 2>&1 || {
    tail -n 20 "$dir/apt.log" >&2
    fail "apt-get could not install ${missing[*]}; its last words stand above"
  }
}

# usable tells whether the daemon that the environment names runs privileged
# containers, with this machine's own programs, so that no image is needed.
usable() {
  local image=flux-platform-conformance/probe:privileged mounts=() folder said
  command -v docker >/dev/null && timeout 20 docker version >/dev/null 2>&1 || return 1
  for folder in /bin /lib /lib64 /usr; do
    [[ ! -e $folder ]] || mounts+=(--mount "type=bind,source=$folder,target=$folder,readonly")
  done
  tar --create --files-from /dev/null | docker import - "$image" >/dev/null 2>&1 || return 1
  local code=0
  said=$(timeout 60 docker run --rm --privileged --network none "${mounts[@]}" "$image" /bin/true 2>&1) || code=$?
  docker image rm "$image" >/dev/null 2>&1 || true
  if [[ $code != 0 ]]; then
    say "the Docker daemon that runs refuses privileged containers: $said"
  fi
  return $code
}

# endpoint is where the docker command of this environment looks.
endpoint() {
  if [[ -n ${DOCKER_HOST:-} ]]; then
    echo "$DOCKER_HOST"
  else
    docker context inspect --format '{{.Endpoints.docker.Host}}'
  fi
}

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9 || fail "$dir/lock cannot be locked"

if answers; then
  say "the daemon of $dir runs already"
  echo "DOCKER_HOST=unix://$socket"
  exit 0
fi
if [[ ! -e $dir/data ]] && usable; then
  say "the Docker daemon that runs is good for kind"
  echo "DOCKER_HOST=$(endpoint)"
  exit 0
fi
[[ $(id -u) == 0 ]] || fail "no Docker daemon runs that is good for kind, and root is needed to install and start one; run it as root, or start Docker yourself and set DOCKER_HOST"
install_docker
start_daemon
driver=$(docker --host "unix://$socket" info --format '{{.Driver}}')
[[ $driver != vfs ]] || say "$dir is on a file system that layers cannot lie on: every container is a full copy, slow and large; another DIR is better"
say "a daemon of our own runs in $dir ($(docker --host "unix://$socket" version --format '{{.Server.Version}}'), $driver)"
echo "DOCKER_HOST=unix://$socket"
