#!/usr/bin/env bash
# Runs the tests of the packages, with the real components where a test needs
# them.
set -euo pipefail
cd "$(dirname "$0")/.."
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
echo "unit: having the components ready (a first build takes about 16 minutes; it says what it does)"
bin/flux-platform-conformance components --link "$links" >/dev/null
echo "unit: go test"
# The specs themselves are judged on a live session, by «make prove».
"${GO:-go}" test -skip "^TestSuites$" ./suites
FLUX_CONFORMANCE_TEST_BINARIES=$links "${GO:-go}" test -timeout 20m . ./scripts/... ./suites/internal/...
