# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# confidential.guest.sh - pool=system in a confidential guest: what is shared with the host, and when
#
# Theory of operation: confidential.ko counts what is wrong (confidential/confidential.c). The pool grows
# under a flood of requests and shrinks when it is quiet, first with conversions that work, then with each
# of them failing, then both. (From 8 MiB, because a pool keeps three chunks free anyhow.) After each part nothing may be wrong, and the disk must verify.
# shellcheck source=guest/lib.sh
. /test/lib.sh

BLK=0000:00:05.0
AT=/sys/module/confidential/parameters
note() { echo "# $*" >&8; }
count() { cat "$AT/$1"; }
says() { grep -q "^$1\$" "$STATS/$BLK/stats"; }
fail() { echo "$2" >"$AT/fail_$1"; }
right() {
	local n bad=0
	for n in atomic twice stale unshared unscrubbed outside freed; do
		[ "$(count $n)" = 0 ] || {
			bad=1
			echo "$n $(count $n)"
		}
	done
	[ $bad = 0 ]
}
pool_bytes() { stat_of $BLK pool_bytes; }
# What is in the pool is shared now, and nothing else.
as_pool() { [ "$(count pieces)" = $(($(pool_bytes) >> 21)) ]; }

# flood CMD...: requests of 256 KiB pile up until the command succeeds; then they are done, and verified.
flood() {
	local fio done=0
	host throttle 1
	fio_verify /dev/vda --bs=256k --iodepth=64 >/tmp/flood 2>&1 &
	fio=$!
	wait_for 10 "$@" || done=1
	host throttle 1000000
	wait $fio && [ $done = 0 ]
}
larger() { [ "$(pool_bytes)" -gt "$1" ]; }
small() { [ "$(pool_bytes)" = "$(stat_of $BLK pool_start)" ]; }
failed_to_grow() { [ "$(stat_of $BLK pool_grow_failed)" -gt "$1" ]; }
lost() { [ "$(stat_of $BLK chunks_lost)" -ge "$1" ]; }

# 6.12 has virtio_pci built in.
bound() { [ -e /sys/bus/pci/devices/$BLK/driver ]; }
bind() { bound || echo $BLK >/sys/bus/pci/drivers/virtio-pci/bind; }
unbind() { ! bound || echo $BLK >/sys/bus/pci/drivers/virtio-pci/unbind; }

# start: confidential.ko has to be there before sluice.ko gives the device its pool.
start() {
	unbind
	sluice pool=system size=8M pool_max=32M quiet=1 policy=auto devices=$BLK &&
		insmod /test/confidential.ko
}
leave() {
	unbind
	rmmod confidential && rmmod sluice
}

check "loads" start
load virtio_pci virtio_blk
check "its driver comes" bind
wait_for 10 [ -b /dev/vda ]
check "its memory is private, and it bounces whatever the policy" \
	sh -c "grep -q '^lower private$' $STATS/$BLK/stats && grep -q '^policy bounce$' $STATS/$BLK/stats"
check "protected, then" says "protected 1"
check "the pool has been converted, and nothing else" as_pool
first=$(count to_shared)
check "it grows ahead of need, and the disk verifies" flood larger "$(pool_bytes)"
note "shared $first pieces at first, then $(($(count to_shared) - first)); $(stat_of $BLK bounced) bounced"
check "by converting" [ "$(count to_shared)" -gt "$first" ]
check "it shrinks when it is quiet" wait_for 15 small
check "and is private again, as much as it was" wait_for 5 as_pool
check "g1, g2: only shared, scrubbed memory for the device; nothing freed that is shared" right

fail shared 1
check "g5: no memory can be shared: the disk verifies with what there is" \
	flood failed_to_grow "$(stat_of $BLK pool_grow_failed)"
check "it is said" sh -c "dmesg | grep -q 'sluice: pool system cannot grow as memory could not be converted'"
check "nothing is lost, as what was half shared has been made private" says "chunks_lost 0"
check "g1: none of it was handed out or freed shared" right
fail shared 0
check "when it works again it grows" flood larger "$(pool_bytes)"

fail private 1
check "what cannot be made private again is lost" wait_for 15 lost 1
check "it is said" sh -c "dmesg | grep -q 'sluice: pool system of $BLK: 2 MiB could not be made private'"
check "the pool is small all the same" wait_for 15 small
check "g1: what was lost is not freed" right
fail private 0

# Twice more than it takes to lose four pieces.
before=$(stat_of $BLK pool_grow_failed)
most=$(stat_of $BLK chunks_lost)
[ "$most" -ge 4 ] || most=4
tried() { lost 4 && failed_to_grow $((before + 5)); }
fail private 1
fail shared 1
check "g5: with both failing, the disk verifies" flood tried
check "g5: and such a host does not get more and more" says "chunks_lost $most"
check "still nothing shared is free" right
note "$(count to_shared) shared, $(count to_private) made private in all"
fail private 0
fail shared 0
check "unload" leave

check "loads once more" start
fail shared 1
bind
check "g6: without a pool it is not confined, and that is said" says "confined 0"
check "with the reason" \
	sh -c "dmesg | grep -q '$BLK: sluice: NOT confined: memory for its pool cannot be shared with the host'"
check "and nothing is shared" [ "$(count pieces)" = 0 ]
check "and no shared memory was freed" right
