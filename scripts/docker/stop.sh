#!/bin/bash
# Ends the Docker daemon that scripts/docker/start.sh DIR began, with all of its
# containers, networks, volumes and images, and removes DIR:
#
#   scripts/docker/stop.sh DIR
#
# Where start.sh found a daemon that was there already, nothing is ended.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/docker/common.sh
. "$here/common.sh"

[[ $# == 1 ]] || fail "usage: $0 DIR"
place "$1"
[[ -e $dir ]] || exit 0
[[ -e $dir/lock ]] || fail "$dir was not made by start.sh; it stays as it is"
if [[ ! -e $dir/data && $(id -u) != 0 ]]; then
  # No daemon was begun: there is nothing but the lock.
  rm -f "$dir/lock" && rmdir "$dir"
  exit 0
fi
[[ $(id -u) == 0 ]] || fail "root is needed to end the daemon that root started"
exec 9>"$dir/lock"
flock 9 || fail "$dir/lock cannot be locked"

# A killed daemon leaves containers that nobody watches: the one that is begun
# here knows them, and takes them down.
if [[ -e $dir/data ]]; then
  answers || start_daemon
  docker=(docker --host "unix://$socket")
  containers=$("${docker[@]}" ps --all --quiet)
  # shellcheck disable=SC2086 # one word per container
  [[ -z $containers ]] || "${docker[@]}" rm --force --volumes $containers >/dev/null
  "${docker[@]}" network prune --force >/dev/null
  end_daemon
fi
remove_network
awk -v below="$dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac | while read -r mount; do
  umount "$mount"
done
rm -rf --one-file-system "$dir"
say "the daemon of $dir has ended; nothing of it is left"
