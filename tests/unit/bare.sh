#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# The core is freestanding: it builds with no header but the compiler's own, and what its objects
# ask of the outside is nothing beyond the four functions that a freestanding compiler may call.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
if ! make -s bare BUILD="$build" >"$build/bare.log" 2>&1; then
	cat "$build/bare.log"
	echo "not ok - core builds freestanding"
	exit 1
fi
echo "ok - core builds freestanding"
outside=$(nm -u "$build"/bare/*.o | sed -n 's/^ *U //p' |
	grep -Ev '^(sluice_|memcpy$|memmove$|memset$|memcmp$)' | sort -u)
if [ -n "$outside" ]; then
	echo "not ok - core needs nothing from outside: it asks for $outside"
	exit 1
fi
echo "ok - core needs nothing from outside"
ifdefs=$(grep -nE '^#[[:space:]]*(if|ifdef|ifndef|elif)\b' core/*.[ch] | grep -vE '_H$')
if [ -n "$ifdefs" ]; then
	echo "not ok - core has no conditional compilation: $ifdefs"
	exit 1
fi
echo "ok - core has no conditional compilation"
