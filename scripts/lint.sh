#!/usr/bin/env bash
# Builds the pinned linter into $1.
set -euo pipefail
out=$(mkdir -p "$(dirname "$1")" && cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$root/scripts/pins/lint.mod" "$work/go.mod"
cp "$root/scripts/pins/lint.sum" "$work/go.sum"
echo "lint: building golangci-lint (some minutes the first time)"
cd "$work" && CGO_ENABLED=0 GOFLAGS=-mod=readonly "${GO:-go}" build -trimpath -o "$out" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
