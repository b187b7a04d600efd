# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# guest.sh - the benchmark's guest: fio on one disk, the same jobs whatever is below it
#
# Theory of operation: fio's terse form has read KiB/s and IOPS in fields 7 and 8, write in 48 and
# 49; a job does one of them only. Each job has a short ramp that does not count.
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

[ "$PART" != sluice ] || sluice devices=virtio || host fail "sluice.ko could not be loaded"
load virtio_pci virtio_blk || host fail "no disk"
host seconds
seconds=$REPLY

# job NAME UNIT OPTION...
job() {
	local name="$1" unit="$2" result
	shift 2
	result=$(fio --name=job --filename=/dev/vda --ioengine=libaio --direct=1 --thread \
		--time_based --ramp_time=300ms "--runtime=$seconds" --randrepeat=0 \
		--output-format=terse "$@" | awk -F';' -v unit="$unit" '{
			print unit == "IOPS" ? $8 + $49 : ($7 + $48) / 1024 }')
	host sample "$name" "$result" "$unit"
}
for rw in randread randwrite; do
	for depth in 1 16; do
		job "4k-$rw-qd$depth" IOPS --rw=$rw --bs=4k --iodepth=$depth
	done
done
for rw in read write; do
	job "128k-$rw-qd4" MiB/s --rw=$rw --bs=128k --iodepth=4
done
# A figure counts only if what it stands for was at work.
case $PART in
sluice) bounced 0000:00:05.0 || host fail "nothing went through the pool" ;;
swiotlb)
	# Requests have to be seen in flight: many, and for a while.
	fio --name=seen --filename=/dev/vda --ioengine=libaio --direct=1 --thread --rw=randread \
		--bs=64k --iodepth=64 --time_based --runtime=2 >/dev/null &
	used=0
	while kill -0 $! 2>/dev/null; do
		now=$(cat /sys/kernel/debug/swiotlb/io_tlb_used)
		[ "$now" -le "$used" ] || used=$now
	done
	[ "$used" -gt 0 ] || host fail "nothing went through swiotlb"
	;;
esac
