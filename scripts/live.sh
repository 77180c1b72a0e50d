#!/usr/bin/env bash
# Runs the built program as a user would, on real clusters, and looks at it from
# outside: killed, interrupted, twice at once, without a network, over ssh, from
# upstream and from a registry. The tests run one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $(uname) != Linux ]]; then
	echo "live: these tests look at /proc and make namespaces: run them on Linux" >&2
	exit 1
fi
echo "live: go test -tags live ./suites/internal/program (about 12 minutes with the components ready)"
"${GO:-go}" test -tags live -count 1 -timeout 60m -run '^TestLive' -v ./suites/internal/program
