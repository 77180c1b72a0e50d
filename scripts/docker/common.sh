# What start.sh and stop.sh share: how a daemon of our own is begun and ended.
# shellcheck shell=bash

say() { echo "docker: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

# place sets the names of all that belongs to the daemon of a folder.
place() {
  dir=$(realpath -m "$1")
  [[ $dir != / ]] || fail "/ is no folder for a daemon"
  socket=$dir/docker.sock
  pidfile=$dir/docker.pid
  # Names of interfaces and chains are short, and belong to one folder.
  local sum
  sum=$(printf %s "$dir" | cksum | cut -d' ' -f1)
  bridge=fpc$sum
  chain=FPC-$sum
  # Linux takes no longer socket paths than 107 bytes; containerd's is longer
  # than Docker's.
  ((${#dir} <= 60)) || fail "the path $dir is too long for sockets in it; give a shorter one"
}

# lacks_resource tells whether even root has no CAP_SYS_RESOURCE (bit 24) here.
lacks_resource() {
  local capabilities
  capabilities=$(awk '$1 == "CapBnd:" { print $2 }' /proc/self/status)
  ((((16#$capabilities >> 24) & 1) == 0))
}

# daemon prints the process of our daemon, when it runs. A number that now
# belongs to another process is not it.
daemon() {
  local pid
  pid=$(cat "$pidfile" 2>/dev/null) || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "--pidfile=$pidfile" || return 1
  echo "$pid"
}

answers() {
  daemon >/dev/null && timeout 10 docker --host "unix://$socket" version >/dev/null 2>&1
}

# pool prints the first of some private networks that this machine has no route
# into, or the one that was taken before.
pool() {
  local candidate
  if [[ -s $dir/pool ]]; then
    cat "$dir/pool"
    return
  fi
  for candidate in 10.201 10.202 10.203 172.29 172.31; do
    if ! ip -4 route show table all | grep -qF " $candidate." && ! ip -4 route show | grep -q "^${candidate//./\\.}\\."; then
      echo "$candidate" | tee "$dir/pool"
      return
    fi
  done
  fail "this machine has routes into every network that was tried for Docker's addresses"
}

# A machine with br_netfilter puts what passes through a bridge to its rules for
# forwarding as well, and Docker's policy there is to drop: packets of pods, whose
# addresses are not Docker's, would not come from node to node. At the end of the
# rules they are let pass, after whatever others have decided.
bridged=(FORWARD -m physdev --physdev-is-bridged -m comment --comment)

# make_network makes the daemon's bridge, and rules for its addresses. Docker is
# kept from writing rules itself: chains of two daemons have the same names, and
# the one that starts later empties them.
make_network() {
  local net=$1
  if ! ip link show "$bridge" >/dev/null 2>&1; then
    ip link add "$bridge" type bridge
    ip address add "$net.0.1/24" dev "$bridge"
  fi
  ip link set "$bridge" up
  iptables --wait -N "$chain" 2>/dev/null || iptables --wait -F "$chain"
  iptables --wait -A "$chain" -s "$net.0.0/16" -j ACCEPT
  iptables --wait -A "$chain" -d "$net.0.0/16" -j ACCEPT
  iptables --wait -C FORWARD -j "$chain" 2>/dev/null || iptables --wait -I FORWARD -j "$chain"
  iptables --wait -C "${bridged[@]}" "$chain" -j ACCEPT 2>/dev/null ||
    iptables --wait -A "${bridged[@]}" "$chain" -j ACCEPT ||
    say "without the rule above, nodes do not reach each other's pods where br_netfilter is loaded"
  iptables --wait -t nat -N "$chain" 2>/dev/null || iptables --wait -t nat -F "$chain"
  # What passes from node to node keeps the address of its node.
  iptables --wait -t nat -A "$chain" -m physdev --physdev-is-bridged -j RETURN 2>/dev/null || true
  iptables --wait -t nat -A "$chain" -s "$net.0.0/16" ! -d "$net.0.0/16" -j MASQUERADE
  iptables --wait -t nat -C POSTROUTING -j "$chain" 2>/dev/null || iptables --wait -t nat -A POSTROUTING -j "$chain"
}

remove_network() {
  local table hook
  iptables --wait -D "${bridged[@]}" "$chain" -j ACCEPT 2>/dev/null || true
  for table in filter nat; do
    hook=FORWARD
    [[ $table == filter ]] || hook=POSTROUTING
    iptables --wait -t "$table" -D "$hook" -j "$chain" 2>/dev/null || true
    iptables --wait -t "$table" -F "$chain" 2>/dev/null || true
    iptables --wait -t "$table" -X "$chain" 2>/dev/null || true
  done
  if ip link show "$bridge" >/dev/null 2>&1; then ip link delete "$bridge"; fi
}

# end_leftovers ends what a killed daemon left: its containers run on, in mounts
# that no other process sees, so no other daemon could take them over.
end_leftovers() {
  local shim pids=() waited=0
  for shim in /proc/[0-9]*; do
    if tr '\0' '\n' 2>/dev/null <"$shim/cmdline" | grep -qxF -- "$dir/exec/containerd/containerd.sock"; then
      pids+=("${shim#/proc/}")
    fi
  done
  [[ ${#pids[@]} != 0 ]] || return 0
  # The first process of a container takes all others with it.
  for shim in "${pids[@]}"; do
    # shellcheck disable=SC2046 # one word per process
    kill -KILL "$shim" $(cat "/proc/$shim"/task/*/children 2>/dev/null) 2>/dev/null || true
  done
  while kill -0 "${pids[@]}" 2>/dev/null; do
    ((++waited < 50)) || fail "processes of a killed daemon do not end: ${pids[*]}"
    sleep 0.1
  done
}

# start_daemon begins the daemon and waits until it answers. It has mounts of
# its own, which end with it, and does not see a containerd of the machine, so
# it starts one of its own.
start_daemon() {
  local net options=() waited=0 pid
  end_daemon # one that does not answer any more
  end_leftovers
  rm -rf --one-file-system "$dir/exec"
  net=$(pool)
  make_network "$net"
  if lacks_resource; then
    say "this machine grants no CAP_SYS_RESOURCE: containers go without"
    install -m 755 "$here/runtime.sh" "$dir/runtime"
    options+=(--add-runtime="reduced=$dir/runtime" --default-runtime=reduced)
  fi
  # A number that a killed daemon left may be another process's by now.
  rm -f "$pidfile" "$socket"
  # shellcheck disable=SC2016 # $@ is the inner shell's
  setsid unshare --mount --propagation slave -- bash -c '
    if [[ -d /run/containerd ]]; then mount -t tmpfs none /run/containerd; fi
    exec "$@"' dockerd dockerd \
    --host="unix://$socket" --group=root --data-root="$dir/data" --exec-root="$dir/exec" --pidfile="$pidfile" \
    --bridge="$bridge" --iptables=false --ip-masq=false --default-address-pool="base=$net.0.0/16,size=24" \
    "${options[@]}" >>"$dir/dockerd.log" 2>&1 </dev/null 9>&- &
  pid=$!
  until answers; do
    if ! kill -0 "$pid" 2>/dev/null || ((++waited > 300)); then
      kill "$pid" 2>/dev/null || true
      tail -n 20 "$dir/dockerd.log" >&2
      remove_network
      fail "the Docker daemon did not start; its last words stand above, the rest in $dir/dockerd.log"
    fi
    sleep 0.2
  done
}

# end_daemon ends the daemon and waits until it is gone.
end_daemon() {
  local pid waited=0
  pid=$(daemon) || return 0
  kill -TERM "$pid"
  while kill -0 "$pid" 2>/dev/null; do
    if ((++waited == 150)); then
      say "the daemon does not end by itself; it is killed"
      kill -KILL "$pid"
    elif ((waited > 200)); then
      fail "the daemon, process $pid, cannot be ended"
    fi
    sleep 0.2
  done
}
