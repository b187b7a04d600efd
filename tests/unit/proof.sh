#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# Has Spin try every order of events of tests/proof/cache.pml, the hand-over of slots between
# caches, and a slot's life under unmaps and frees that come twice, at once, or of something else; and of
# tests/proof/room.pml, the relay's queues waiting for room in the pool.
#
# Each of the first group must hold, for all states: the search has to end by itself, without an
# error and without having run out of depth or memory. Each of the second group leaves one thing out
# that the core does, and must be found out: that is what shows that the first group could fail.
#
# The answer depends on the model, on this script and on Spin alone, not on how the core is built: under sanitizers it is
# left out (Makefile), and what was proved is kept in build/proof/ for the next compiler, under a checksum of all three.
#
# Whether the model says what the core does is for who changes the core to see to; that he does is not
# left to his memory: tests/proof/functions has a checksum of each function that the model follows, without
# comments and white space, as it was when somebody last held the two against each other. One
# that has changed since is a failure, until "tests/unit/proof.sh -u" says that it was looked at.
#
# 45 s of one processor and 0.8 GB; the states are kept whole, so that "no error" means all of them.
# (-O0: what optimization wins in the search it loses in the compiler.)
set -u
cd "$(dirname "$0")/../.." || exit 1
models=$PWD/tests/proof
functions=tests/proof/functions

# body FILE FUNCTION: its definition there, as one line of code without comments.
body() {
	awk -v name="$2" '
		!inside && /^[a-z]/ && match($0, "[ *]" name "\\(") { inside = 1; text = "" }
		inside {
			text = text $0 "\n"
			if (text !~ /\{/ && /;$/) # a declaration
				inside = 0
			if (/^}/) { printf "%s", text; exit }
		}' "$1" | gcc -fpreprocessed -E -P -x c - 2>/dev/null | tr -d ' \t\n'
}

# sums: the lines of $functions as they would have to be now.
sums() {
	while read -r file name _; do
		code=$(body "$file" "$name")
		echo "$file $name $(printf %s "${code:-gone}" | cksum | cut -d' ' -f1)"
	done <$functions
}

if [ "${1:-}" = -u ]; then
	sums >build/functions.new && mv build/functions.new $functions
	exit
fi
drift=0
sums | diff $functions - | sed -n 's/^> \([^ ]*\) \([^ ]*\) .*/\2() in \1/p' | {
	while read -r what; do
		echo "# $what has changed since the model was last held against it: do so, change the model"
		echo "# if it has to be, and then say so by tests/unit/proof.sh -u"
		echo "not ok - proof: the model follows $what"
		drift=1
	done
	exit $drift
} && echo "ok - proof: what the model follows is as it was ($(wc -l <$functions) functions)" || drift=1
if ! command -v spin >/dev/null; then
	echo "ok - proof # SKIP spin is not installed"
	exit $drift
fi
work=build/proof/work
proved=build/proof/$({ cat "$models"/*.pml tests/unit/proof.sh; spin -V; } | cksum | tr -d " ")
status=0
mkdir -p build/proof
# Another flavour may be at it at this moment.
exec 9>build/proof/lock
flock 9
if [ -f "$proved" ]; then
	cat "$proved"
	exit $drift
fi
rm -f "$work.tap"

say() {
	echo "$1" >>"$work.tap"
	echo "$1" # by this shell: if nobody reads any more it ends here, and keeps nothing
}

# search OPTION...: the whole of what the search says is in $work/log afterwards.
search() {
	rm -rf "$work"
	mkdir -p "$work"
	(
		cd "$work" &&
			spin -a "$@" "$models/$model.pml" &&
			gcc -O0 -w "-D${cycles:-SAFETY}" -DMEMLIM=1000 -o pan pan.c &&
			./pan -m100000 -w24 ${cycles:+-l -f}
	) >"$work/log" 2>&1
}

holds() {
	what=$1
	shift
	if search "$@" && grep -q 'errors: 0$' "$work/log" &&
		! grep -qE 'not completed|max search depth|out of memory|Warning' "$work/log"; then
		say "ok - proof: $what ($(awk '/states, stored/ { print $1 }' "$work/log") states)"
	else
		cat "$work/log"
		echo "not ok - proof: $what"
		status=1
	fi
}

# found WHAT PATTERN OPTION...: an error is found, and it is the one that is meant.
found() {
	what=$1 pattern=$2
	shift 2
	search "$@"
	if grep -q 'errors: 1$' "$work/log" && grep -q "^pan:1: $pattern" "$work/log"; then
		say "ok - proof: found out: $what"
	else
		cat "$work/log"
		echo "not ok - proof: found out: $what"
		status=1
	fi
}

model=cache cycles=
holds "two threads, three calls each" -DTHREADS=2 -DCALLS=3
holds "three threads at once on what one has left" -DTHREADS=3 -DCALLS=1 -DBEFORE=1 -DFRUGAL
holds "no right unmap is refused" -DTHREADS=3 -DCALLS=1 -DBEFORE=1 -DONE_LENGTH
holds "double and foreign frees of the bare pool" -DTHREADS=3 -DCALLS=1 -DBEFORE=2 -DRAW -DFRUGAL

claimed='assertion violated (*mapped\[s\]'
as_taken='assertion violated (*owned\[s\]==kind'
found "a claim that is not atomic" "$claimed" -DTHREADS=2 -DNO_CAS
found "a length that is not compared again" "$claimed" -DTHREADS=2 -DNO_RECHECK
found "a kind that is read before the claim" "$as_taken" -DTHREADS=2 -DKIND_FIRST
found "the same in the bare pool" "$as_taken" -DTHREADS=2 -DRAW -DKIND_FIRST
found "a kind that is said too late" "$as_taken" -DTHREADS=2 -DRAW -DKIND_LATE
found "records that begin as held" "assertion violated" -DTHREADS=2 -DRAW -DZERO_RECORDS
found "no lock of the pool" "assertion violated" -DTHREADS=2 -DNO_POOL_LOCK
found "waiting for one cache in another" "invalid end state" -DTHREADS=2 -DCALLS=3 \
	-DWAIT_FOR_ANOTHER

model=room
asleep='invalid end state'
holds "waiting for room, with runs that are kept"
holds "waiting for room, without" -DREADS=0
found "a thread that is not woken when room comes" "$asleep" -DNO_WAKE
found "a queue that sleeps without a second try" "$asleep" -DNO_SECOND_TRY
found "room that was held while a chain was tried, and told to nobody" "$asleep" -DUNTOLD
found "room that is flushed, and told to nobody" "$asleep" -DFLUSH_UNTOLD
found "looking for who waits too early" "$asleep" -DTOLD_FIRST
cycles=NP # cycles without progress, processes being treated fairly
holds "nobody tries for ever" -DLEAST=1
found "threads that have each other try for ever" "non-progress cycle" -DALWAYS_TOLD
[ $status -ne 0 ] || mv "$work.tap" "$proved"
exit $((status || drift))
