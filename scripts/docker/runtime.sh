#!/bin/bash
# An OCI runtime for machines where even root has no CAP_SYS_RESOURCE: it is
# runc, but what needs that capability is taken out of the container's
# specification first, since runc would fail where the kernel refuses it:
#
# - the capability itself, which privileged containers ask for
# - an OOM score lower than this process has
# - limits of resources, which may be higher than this process may set; the
#   container has those of the daemon
set -euo pipefail

command= bundle=. process= log= previous=
for argument in "$@"; do
  case $previous in
  --bundle | -b) bundle=$argument ;;
  --process | -p) process=$argument ;;
  --log) log=$argument ;;
  esac
  case $argument in
  --bundle=* | -b=*) bundle=${argument#*=} ;;
  --process=* | -p=*) process=${argument#*=} ;;
  --log=*) log=${argument#*=} ;;
  create | run | restore | exec) command=${command:-$argument} ;;
  esac
  previous=$argument
done

# reduce rewrites a specification; process is where the process stands in it.
reduce() {
  local file=$1 where=$2 said
  if ! said=$(jq --argjson least "$(cat /proc/self/oom_score_adj)" "
    $where |= (
      if .capabilities then .capabilities |= map_values(map(select(. != \"CAP_SYS_RESOURCE\"))) else . end
      | if (.oomScoreAdj // 0) < \$least then del(.oomScoreAdj) else . end
      | del(.rlimits))" "$file" 2>&1 >"$file.reduced"); then
    rm -f "$file.reduced"
    said="take CAP_SYS_RESOURCE out of $file: ${said//\"/}"
    # Docker reads the reason from runc's log.
    [[ -z $log ]] || printf '{"level":"error","msg":"%s"}\n' "${said//$'\n'/ }" >>"$log"
    echo "$said" >&2
    exit 1
  fi
  # The same file, since a process's may be in a folder that nobody else writes.
  cat "$file.reduced" >"$file"
  rm -f "$file.reduced"
}

case $command in
create | run | restore) reduce "$bundle/config.json" .process ;;
exec) [[ -z $process ]] || reduce "$process" . ;;
esac
exec runc "$@"
