#!/usr/bin/env bash
# Runs the built program as a user would, on real clusters, and looks at it from
# outside: killed, interrupted, twice at once, judging and watching policies, without
# a network, over ssh, from upstream and from a registry; with PROVIDER=kind what is
# so on a Docker daemon alone. The tests run one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $(uname) != Linux ]]; then
	echo "live: these tests look at /proc and make namespaces: run them on Linux" >&2
	exit 1
fi
case ${PROVIDER:-} in
"" | embedded)
	select=(-run '^TestLive' -skip '^TestLiveKind')
	takes="about 15 minutes"
	;;
kind)
	if ! said=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null); then
		echo "live: no Docker daemon answers, and kind makes its clusters on one: start it, or let DOCKER_HOST or «docker context use» lead to one: $said" >&2
		exit 1
	fi
	select=(-run '^TestLiveKind')
	takes="about 6 minutes"
	;;
*)
	echo "live: there are no such tests for the provider «$PROVIDER»: PROVIDER=kind, or none for embedded" >&2
	exit 1
	;;
esac
echo "live: go test -tags live ./suites/internal/program ($takes with the components ready)"
"${GO:-go}" test -tags live -count 1 -timeout 60m "${select[@]}" -v ./suites/internal/program
