# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# tap.sh - report results, in the form that tests/run-programs prints
#
# Theory of operation: each result is one line on stdout, "ok - what", "not ok - what: why" or
# "ok - what # SKIP why", with TAP_PREFIX (kernel and test) before what. Whoever counts reads the
# lines; the number of failures is kept here too, for callers that end at the first one.

TAP_PREFIX=${TAP_PREFIX:-}
TAP_FAILED=0

tap_ok() { printf 'ok - %s%s\n' "$TAP_PREFIX" "$*"; }
tap_skip() { printf 'ok - %s%s # SKIP %s\n' "$TAP_PREFIX" "$1" "$2"; }
tap_not_ok() {
	printf 'not ok - %s%s: %s\n' "$TAP_PREFIX" "$1" "$(printf '%s' "${2:-}" | tr '\n' ' ')"
	TAP_FAILED=$((TAP_FAILED + 1))
}

# not COMMAND...: for a check of what is not to be; functions, too.
not() { ! "$@"; }

# tap_check NAME CMD...: one result, from the status of CMD, with its last output as the reason.
tap_check() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		tap_ok "$name"
	else
		tap_not_ok "$name" "$(printf '%s' "$output" | tail -n 3)"
		return 1
	fi
}

# tap_count FILE...: the totals line; fails if a result did, or if there is none.
tap_count() {
	cat "$@" | awk '
		/^ok.*# SKIP/ { s++; next }
		/^ok/ { p++ }
		/^not ok/ { f++ }
		END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p == 0 }'
}
