#!/bin/sh
# Runs golangci-lint with the arguments given. It is built from source on first use, because a linter
# built with an older Go than the code it reads refuses to work.
set -eu

version=v2.15.0

cache=${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}
bin=$cache/golangci-lint-$version-$(go env GOVERSION)

if [ ! -x "$bin/golangci-lint" ]; then
	echo "building golangci-lint $version (once; a few minutes)" >&2
	start=$(date +%s)
	# Outside the module, so that its go.mod and GOFLAGS meant for this project play no part.
	(cd / && GOBIN=$bin GOFLAGS='' nice go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version")
	echo "built golangci-lint in $(($(date +%s) - start)) s" >&2
fi

exec "$bin/golangci-lint" "$@"
