#!/usr/bin/env bash
# Lists the targets of the given Makefile with what stands behind their ##.
set -euo pipefail
sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)$/\1\t\2/p' "$1" |
	while IFS=$'\t' read -r target text; do printf '  %-8s %s\n' "$target" "$text"; done
