#!/bin/sh
# Rules for source files that no linter holds: formatting also in test/controlplane (a module of its
# own), no long files, and no skipped tests: a test that does not run proves nothing.
set -eu
cd "$(dirname "$0")/.."

files=$(find . \( -path ./out -o -path ./bin -o -path ./.git \) -prune -o -name '*.go' -print)
failed=0

# Prints its input under the heading $1, if there is any input, and remembers that a rule is broken.
forbid() {
	found=$(cat)
	[ -n "$found" ] || return 0
	printf '%s:\n%s\n' "$1" "$found" >&2
	failed=1
}

# Here-documents, not pipes: the right side of a pipe is a subshell, where failed=1 would be lost.
forbid "not formatted (gofmt -s -w)" <<END
$(echo "$files" | xargs gofmt -s -l)
END
forbid "longer than 500 lines" <<END
$(echo "$files" | xargs wc -l | awk '$2 != "total" && $1 > 500')
END
forbid "skipped tests" <<END
$(echo "$files" | xargs grep -nE '\b(t|tb|b|f)\.Skip(f|Now)?\(')
END

exit "$failed"
