# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# guest.sh - the benchmarks' guest: fio on one disk, or on several in turn, the same jobs whatever is below
#
# Theory of operation: the host says which disks a round is to use, and in which order; each job goes
# from one to the next. fio's terse form has read KiB/s and IOPS in fields 7 and 8, write in 48 and
# 49; a job does one of them only. Each job has a short ramp that does not count.
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

[ "$PART" != sluice ] || sluice devices=virtio || host fail "sluice.ko could not be loaded"
load virtio_pci virtio_blk || host fail "no disk"
host seconds
seconds=$REPLY
host rounds
rounds=$REPLY

# job NAME UNIT OPTION...: on each of the round's disks.
job() {
	local name="$1" unit="$2" disk result
	shift 2
	for disk in $disks; do
		result=$(fio --name=job "--filename=/dev/$disk" --ioengine=libaio --direct=1 --thread \
			--time_based --ramp_time=300ms "--runtime=$seconds" --randrepeat=0 \
			--output-format=terse "$@" | awk -F';' -v unit="$unit" '{
				print unit == "IOPS" ? $8 + $49 : ($7 + $48) / 1024 }')
		host sample "$disk" "$name" "$result" "$unit"
	done
}
for round in $(seq "$rounds"); do
	host disks "$round"
	disks=$REPLY
	for rw in randread randwrite; do
		for depth in 1 16; do
			job "4k-$rw-qd$depth" IOPS --rw=$rw --bs=4k --iodepth=$depth
		done
	done
	for rw in read write; do
		job "128k-$rw-qd4" MiB/s --rw=$rw --bs=128k --iodepth=4
	done
done
# A figure counts only if what it stands for was at work.
case $PART in
sluice) bounced 0000:00:05.0 || host fail "nothing went through the pool" ;;
swiotlb)
	# Each bounce is an event of the kernel's own, with the reason why.
	mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
	cd /sys/kernel/tracing || host fail "there is no tracefs"
	echo 1 >events/swiotlb/swiotlb_bounced/enable
	dd if=/dev/vda of=/dev/null bs=4096 count=64 iflag=direct 2>/dev/null
	echo 0 >events/swiotlb/swiotlb_bounced/enable
	used=$(grep -c "swiotlb_bounced:.* FORCE" trace)
	[ "$used" -ge 64 ] || host fail "$used of 64 requests went through swiotlb"
	;;
esac
