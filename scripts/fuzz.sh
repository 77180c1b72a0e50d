#!/usr/bin/env bash
# Runs every fuzz test of the project for FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rlE '^func Fuzz' --include='*_test.go' suites | while read -r file; do
	grep -oE '^func (Fuzz[A-Za-z0-9_]*)' "$file" | awk '{print $2}' | while read -r name; do
		echo "fuzz: $(dirname "$file") $name"
		"${GO:-go}" test "./$(dirname "$file")" -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 10x
	done
done
