#!/bin/sh
# Runs each fuzz target for the time given. go test takes one target of one package at a time.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s}

targets=$(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal test || true)
[ -n "$targets" ] || { echo "there are no fuzz targets" >&2; exit 1; }

# "internal/volume/name_test.go:12:func FuzzParseName" -> "internal/volume FuzzParseName"
echo "$targets" | sed -E 's#/[^/]+:[0-9]+:func # #' | sort | while read -r dir name; do
	echo "fuzzing $name in $dir for $time"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$dir" </dev/null
done
