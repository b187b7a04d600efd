#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# survey.sh - the commands on streams that are kept in docs/survey, and on counters made up here
#
# Theory of operation: what is promised of report, replay, cut and stat as commands: the same answer
# each time, a page that needs nothing else, an error that says what is wrong.
# shellcheck disable=SC2317 # functions are called by check
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
check() {
	local name=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		echo "ok - $name"
	else
		echo "not ok - $name: $(tail -n 2 "$work/out" | tr '\n' ' ')"
		failed=1
	fi
}
sluice() { "$SLUICE" "$@"; }
stream=docs/survey/6.1-observe-blk-fio.sv

sluice survey report --html "$work/page" "$stream" >"$work/text"
check "report: the text names the disk" grep -q '^0000:00:10.0 virtio_blk' "$work/text"
check "report: it ends in advice" grep -q -- '-> Bounce' "$work/text"
check "report: says that the stream is cut" grep -q '^Cut: ' "$work/text"
check "report: the page is whole" sh -c "tail -n 1 '$work/page' | grep -q '</html>'"
needs_nothing() { ! grep -Eq '(src|href)=|url\(|@import|<script' "$work/page"; }
check "report: the page needs nothing else" needs_nothing
check "report: rows for a table" sh -c "'$SLUICE' survey report --rows sizes '$stream' | grep -q '^| virtio_blk'"

# replay FILE: without what is measured
replay() { sluice survey replay "$@" | grep -v '^time'; }
replay --pool 2M "$stream" >"$work/one"
replay --pool 2M "$stream" >"$work/two"
check "replay: the same twice" cmp "$work/one" "$work/two"
check "replay: nothing is refused by 2 MiB" grep -q 'want of space 0, too long for it 0' "$work/one"
replay --pool 16K "$stream" >"$work/small"
check "replay: a pool far too small refuses some" grep -qE 'want of space [1-9]' "$work/small"
replay --pool 2M --share-from 4K "$stream" >"$work/shared"
check "replay: what is shared in place is not copied" sh -c \
	"grep -qE '^in place *[1-9]' '$work/shared' && ! cmp -s '$work/one' '$work/shared'"

files=docs/survey/6.1-observe-blk-fs.sv
reachable() { sed -n "s/^exposed *\(.*\) reachable.*/\1/p" "$1"; }
replay --pool 8M --policy bounce "$files" >"$work/bounce"
# At 0.8 us a sharing, so that there is something on both sides whichever sample is there.
replay --pool 8M --policy auto --share 800 "$files" >"$work/auto"
replay --pool 8M --policy share "$files" >"$work/share"
check "replay: bounce makes nothing reachable in place" test "$(reachable "$work/bounce")" = "0 B"
shares() { sed -n "s/^shares *\([0-9]*\).*/\1/p" "$1"; }
check "replay: auto shares some of what share shares" \
	test "$(shares "$work/auto")" -gt 0 -a "$(shares "$work/auto")" -lt "$(shares "$work/share")"
replay --pool 8M --policy auto --share 0.001 "$files" >"$work/free"
check "replay: what costs nothing is shared whenever it can be" \
	test "$(shares "$work/free")" = "$(shares "$work/share")"

check "cut: a piece" sluice survey cut --events 500 --skip 100 "$stream" "$work/piece"
check "cut: the piece has as many events" sh -c "'$SLUICE' survey report '$work/piece' | grep -q ' of 500 events'"

# fails PATTERN COMMAND...
fails() {
	local pattern=$1
	shift
	! "$@" >"$work/out" 2>&1 && grep -Eq -- "$pattern" "$work/out"
}
head -c 100 /dev/urandom >"$work/junk"
check "report: refuses what is no stream" fails "no survey stream" sluice survey report "$work/junk"
check "report: a file that is not there" fails "No such file" sluice survey report "$work/none"
head -c 3000 "$stream" >"$work/part"
check "report: a stream without its end says so" sh -c "'$SLUICE' survey report '$work/part' | grep -q 'has no end'"
check "replay: a size that is none" fails "not a size" sluice survey replay --pool x "$stream"
check "replay: a policy that is none" fails "bounce, share or auto" sluice survey replay --policy x "$stream"

mkdir -p "$work/debugfs/0000:00:05.0" "$work/debugfs/0000:00:06.0"
printf 'pool bar:0000:00:04.0/2\npool_bytes 16777216\npool_used 4096\npool_used_max 8192\n' >"$work/debugfs/pool"
printf 'confined 1\nreason -\nlive 3\nmaps 42\nbytes_to 1024\nbytes_from 2048\nfull 1\nnew_key 7\n' \
	>"$work/debugfs/0000:00:05.0/stats"
printf 'confined 0\nreason a "driver" is bound\n' >"$work/debugfs/0000:00:06.0/stats"
sluice stat --debugfs "$work/debugfs" >"$work/stat"
check "stat: a line for a device" grep -qE '^0000:00:05.0 +confined +3 +42 +1 KiB +2 KiB' "$work/stat"
check "stat: one that is open, with the reason" sh -c \
	"grep -A1 '^0000:00:06.0 *OPEN' '$work/stat' | grep -q 'not confined: a \"driver\" is bound'"
sluice stat --json --debugfs "$work/debugfs" >"$work/json"
check "stat --json: keys it does not know, and quotes" \
	grep -q '"new_key":7.*"reason":"a \\"driver\\" is bound"' "$work/json"
check "stat: no relay there" fails "cannot read" sluice stat --relay "$work/none"
check "top: without a terminal" fails "no terminal" sluice top --debugfs "$work/debugfs"
top() {
	(sleep 1.5; printf q) | TERM=xterm timeout 10 script -qec "$SLUICE top --debugfs $work/debugfs" "$work/screen" >/dev/null &&
		grep -q '0000:00:05.0' "$work/screen" && grep -q 'NOT CONFINED' "$work/screen"
}
check "top: draws the devices and ends at q" top
exit $failed
