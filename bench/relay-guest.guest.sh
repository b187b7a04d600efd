# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# relay-guest.guest.sh - fio on two disks in turn: the same jobs, each directly and through the relay
#
# Theory of operation: bench/relay-guest.sh. fio's terse form as in bench/guest.sh.
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

load virtio_pci virtio_blk || host fail "no disks"
host seconds
seconds=$REPLY
host rounds
rounds=$REPLY

# job NAME UNIT OPTION...: on both disks.
job() {
	local name="$1" unit="$2" disk result
	shift 2
	for disk in $order; do
		result=$(fio --name=job "--filename=/dev/$disk" --ioengine=libaio --direct=1 --thread \
			--time_based --ramp_time=200ms "--runtime=$seconds" --randrepeat=0 \
			--output-format=terse "$@" | awk -F';' -v unit="$unit" '{
				print unit == "IOPS" ? $8 + $49 : ($7 + $48) / 1024 }')
		host sample "$disk" "$name" "$result" "$unit"
	done
}

for round in $(seq "$rounds"); do
	# Who begins has the other's leftovers in no cache.
	order="vda vdb"
	[ $((round % 2)) = 1 ] || order="vdb vda"
	host round "$round"
	for rw in randread randwrite; do
		for depth in 1 16; do
			job "4k-$rw-qd$depth" IOPS --rw=$rw --bs=4k --iodepth=$depth
		done
	done
	for rw in read write; do
		job "128k-$rw-qd4" MiB/s --rw=$rw --bs=128k --iodepth=4
	done
done
