#!/bin/sh
# Pins another version of a component.
#
#   scripts/pins/update.sh FAMILY MODULE@VERSION
#   scripts/pins/update.sh kubernetes k8s.io/kubernetes@v1.36.4
#
# FAMILY.mod and FAMILY.sum are rewritten in place; nothing else is touched.
set -eu

if [ $# -ne 2 ] || [ ! -f "$(dirname "$0")/$1.mod" ]; then
	sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
pins=$(cd "$(dirname "$0")" && pwd)
family=$1
wanted=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$pins/$family.sum" "$work/go.sum"
export GOWORK=off GOFLAGS=-mod=mod

# The build list is made anew from the modules that hold the programs: what an
# older version of them needed would otherwise stay in it.
awk '
	$1 == "tool" || $1 == "require" { block = $1 }
	NR == FNR && block == "tool" && $NF != "(" && $NF != ")" { tools[$NF "/"] }
	NR != FNR && block == "require" && /v[0-9]/ {
		keep = 0
		for (tool in tools) if (index(tool, ($1 == "require" ? $2 : $1) "/") == 1) keep = 1
		if (!keep) next
	}
	NR != FNR { print }
	$0 == ")" || ($1 == block && $NF != "(") { block = "" }
' "$pins/$family.mod" "$pins/$family.mod" >"$work/go.mod"
cd "$work"
go mod edit -require="$wanted"

# The staging modules of Kubernetes have no version of their own in its go.mod:
# v1.36.4 goes with v0.36.4 of each.
case $wanted in
k8s.io/kubernetes@v1.*)
	staging=v0.${wanted#*@v1.}
	sed -i.old '/^replace k8s\.io\//d' go.mod
	declared=$(cd / && GOFLAGS= go mod download -json "$wanted" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
	for module in $(sed -n 's|^[[:space:]]*\(k8s\.io/[^ ]*\) v0\.0\.0$|\1|p' "$declared"); do
		go mod edit -replace="$module=$module@$staging"
	done
	;;
esac
# A test of a dependency may want what cannot be fetched (-e); what the
# programs need is proven by the next build, which adds nothing to the sums.
go mod tidy -e
cp go.mod "$pins/$family.mod"
cp go.sum "$pins/$family.sum"
