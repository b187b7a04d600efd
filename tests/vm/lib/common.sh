# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# common.sh - what every script of the project's door and of its VM harness starts from
#
# Theory of operation: `run`, the VM tests, the demo and the benchmark source this file first. It
# finds the project whatever the current folder is, names the cache (downloads and what is made of
# them; git ignores it) and gives one way to talk to the user. An error says what failed, why, and
# what to do. Messages go to stderr, so that stdout is for results alone.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
CACHE=${SLUICE_CACHE:-$ROOT/.cache}
export ROOT CACHE

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# make_in_turn ARGUMENT...: make in the project's folder, never two at once. Tests run beside each other, and the
# second to need a file would take it for made while the first is still writing it; all builds of the module leave
# theirs in one folder.
make_in_turn() {
	mkdir -p "$ROOT/build/logs"
	flock "$ROOT/build/logs/make.lock" make -C "$ROOT" "$@"
}

# fill_marked DOCUMENT FOLDER: put FOLDER/NAME between "<!-- NAME -->" and the next "<!-- end -->" of a document.
fill_marked() {
	awk -v folder="$2" '
		/^<!-- end -->/ { inside = 0 }
		!inside { print }
		/^<!-- [a-z]+ -->/ && !/end/ {
			inside = 1
			file = folder "/" $2
			while ((getline line <file) > 0)
				print line
			close(file)
		}' "$1" >"$2/filled"
	cp "$2/filled" "$1"
}

# as_root CMD...: run it as root, by sudo where the user is not root.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "'$*' needs root and there is no sudo: run this as root, or install sudo"
	fi
}
