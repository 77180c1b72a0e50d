#!/usr/bin/env bash
# A warm run with its phases and memory, how fast policies are judged, and the
# benchmarks of the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bin/flux-platform-conformance components >/dev/null
bin/flux-platform-conformance e2e --artifacts "$folder"
bin/flux-platform-conformance measure --artifacts "$folder"
"${GO:-go}" test -run '^$' -bench . -benchmem ./suites/internal/...
