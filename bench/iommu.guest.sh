# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# iommu.guest.sh - the benchmark's guest: one disk behind an IOMMU, protected in one way after the other
#
# Theory of operation: one boot for all, as everything can be changed while the disk's driver is not
# bound: the type of its group's domain (Linux: none, strict, lazy) and its policy (Sluice, over a
# strict domain; off where Linux is measured). So rounds are seconds apart, and whatever the machine
# does meanwhile hits all alike. PART is what to do: time, or count what each way asks of the IOMMU.
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

# Buffers for fio that lie in one piece whatever else has been allocated, the same for all.
echo 4 >/proc/sys/vm/nr_hugepages
[ "$(cat /proc/sys/vm/nr_hugepages)" = 4 ] || host fail "no huge pages"
modprobe -q virtio-iommu # if that is what there is
load virtio_pci virtio_blk || host fail "no disk"
wait_for 10 [ -b /dev/vda ] || host fail "no disk"
DISK=$(bdf_of vda)
DEVICE=/sys/bus/pci/devices/$DISK
sluice pool=system size=32M "devices=$DISK" || host fail "sluice.ko could not be loaded"

# protect CANDIDATE: bind the disk's driver so.
protect() {
	local type policy=off
	echo "$DISK" >"$DEVICE/driver/unbind"
	case $1 in
	unprotected) type=identity ;;
	linux-strict) type=DMA ;;
	linux-lazy) type=DMA-FQ ;;
	sluice-*)
		type=DMA
		policy=${1#sluice-}
		;;
	esac
	[ "$(cat "$DEVICE/iommu_group/type")" = $type ] || echo $type >"$DEVICE/iommu_group/type" ||
		host fail "$1: the kernel does not change the group to $type"
	echo "$policy" >"$DEVICE/sluice/policy"
	echo "$DISK" >/sys/bus/pci/drivers/virtio-pci/bind
	wait_for 10 [ -b /dev/vda ] || host fail "$1: the disk does not come back"
	if [ "$policy" != off ]; then
		grep -q "^policy $policy\$" "$STATS/$DISK/stats" || host fail "$1: it is not confined"
	fi
}

run_fio() {
	fio --name=global --iomem=shmhuge --filename=/dev/vda --ioengine=libaio --direct=1 --thread --randrepeat=0 \
		--output-format=terse "$@"
}

# jobs CMD: CMD NAME OPTION... for each job.
jobs() {
	local rw depth
	for rw in randread randwrite; do
		for depth in 1 16; do
			"$1" "4k-$rw-qd$depth" --rw=$rw --bs=4k --iodepth=$depth
		done
	done
	for rw in read write; do
		"$1" "128k-$rw-qd4" --rw=$rw --bs=128k --iodepth=4
	done
}

# options NAME OPTION...: for a job among others.
options() {
	echo "--name=$*"
}

# time_all: all jobs one after the other, in one fio: it takes its time to start.
time_all() {
	# shellcheck disable=SC2046 # options
	run_fio --time_based --ramp_time=150ms "--runtime=$MS" --stonewall $(jobs options) >/tmp/times
	awk -F';' '{
		if ($3 ~ /^4k/)
			print $3, $8 + $49, "IOPS"
		else
			print $3, ($7 + $48) / 1024, "MiB/s"
	}' /tmp/times | while read -r name value unit; do
		host sample "$CANDIDATE" "$name" "$value" "$unit"
	done
}

# count NAME OPTION...: how often the IOMMU is asked for 1000 requests.
count() {
	local name="$1"
	shift
	host mark
	run_fio --number_ios=1000 --io_size=1g "--name=$name" "$@" >/dev/null
	host counted "$CANDIDATE" "$name"
}
count_all() { jobs count; }

host milliseconds
MS=$REPLY
host next
while [ "$REPLY" != end ]; do
	CANDIDATE=$REPLY
	protect "$CANDIDATE"
	"${PART}_all"
	case $CANDIDATE in
	sluice-*) echo "$CANDIDATE: $(grep -E '^(bounced|shared|split|break_even|invalidations) ' \
		"$STATS/$DISK/stats" | tr '\n' ' ')" ;;
	esac
	host next
done
