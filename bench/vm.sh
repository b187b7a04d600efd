#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/vm.sh - a disk's throughput in a stock guest: unconfined, swiotlb and Sluice side by side
#
# Theory of operation: each candidate is a way to boot the same guest (set_up below); guest.sh runs
# the same fio jobs in each. A round boots every candidate once, in an order that changes from round
# to round, so that whatever else the machine does hits all alike; a figure is the median over the
# rounds, shown with the lowest and the highest. Two families, each with one backend throughout:
#
#	qsd	qemu-storage-daemon over vhost-user. "direct": no bounce, and no relay. "relayed": the
#		same guest with the relay in between; their difference is what the relay costs.
#		"shadow": a guest that knows of nothing, all of its memory with the relay, in mode shadow.
#		"swiotlb": relay and swiotlb=force. "sluice": relay and sluice.ko.
#	own	QEMU's own virtio-blk: no second process, which leaves the cost of the bounce alone.
#
# Confined guests need VIRTIO_F_ACCESS_PLATFORM, which qemu-storage-daemon does not offer and the
# relay adds: so there is no swiotlb nor Sluice over qemu-storage-daemon without the relay. And the
# relay passes on no file that is all of a guest's RAM; so where there is no pool, the guest has two
# NUMA nodes and the backend gets the second. In "direct" and "relayed" that has the processors and
# all memory that anything but the kernel's image is likely to use (if a buffer were outside, the
# backend would end itself, and the benchmark with it). In "swiotlb" it holds swiotlb, and the rings
# because the disk is on a bus of that node (pxb).
#
# usage: bench/vm.sh [-k SERIES] [-r ROUNDS] [-t SECONDS_A_JOB] [CANDIDATE]...
set -u
bench=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/lib/all.sh
. "$bench/../tests/vm/lib/all.sh"
# shellcheck source=bench/lib.sh
. "$bench/lib.sh"

series=6.1
rounds=3
seconds=1
while getopts k:r:t: o; do
	case $o in
	k) series=$OPTARG ;;
	r) rounds=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) die "usage: bench/vm.sh [-k SERIES] [-r ROUNDS] [-t SECONDS] [CANDIDATE]..." ;;
	esac
done
shift $((OPTIND - 1))
ALL="qsd-direct qsd-shadow qsd-relayed qsd-swiotlb qsd-sluice own-plain own-swiotlb own-sluice"
read -ra candidates <<<"${*:-$ALL}"

MODERN=,disable-legacy=on,iommu_platform=on
POOL_BYTES=64M

own_disk() {
	echo "-drive if=none,id=disk,format=raw,file=$DISK" \
		"-device virtio-blk-pci,drive=disk,num-queues=1,addr=05.0${1:-}"
}

# set_up CANDIDATE: start its peers and the guest.
# shellcheck disable=SC2046 # options
set_up() {
	local pool=$POOL_BYTES
	case $1 in
	qsd-direct | qsd-relayed)
		local socket=$VM_DIR/qsd
		qsd_start "$DISK" "$socket"
		pool_create node 512M
		if [ "$1" = qsd-relayed ]; then
			relay_start "$VM_DIR/relay" "$socket"
			socket=$VM_DIR/relay
		fi
		VM_MEMORY=640 vm_start -p plain -object memory-backend-ram,id=low,size=128M \
			-object "memory-backend-file,id=high,size=512M,share=on,mem-path=$POOL_FILE" \
			-numa node,nodeid=0,memdev=low -numa node,nodeid=1,memdev=high,cpus=0-1 \
			$(vhost_disk "$socket")
		;;
	qsd-shadow)
		qsd_start "$DISK" "$VM_DIR/qsd"
		shadow_start "$VM_DIR/relay" "$VM_DIR/qsd"
		VM_MEMORY=640 vm_start -p plain $(VM_MEMORY=640 all_memory_shared) \
			$(vhost_disk "$VM_DIR/relay")
		;;
	qsd-swiotlb)
		# The initramfs is loaded to the top of low memory, into that node, and swiotlb has
		# to fit below it; so the kernel may not be put just there (nokaslr). SeaBIOS, because qboot numbers no bus behind the pxb.
		qsd_start "$DISK" "$VM_DIR/qsd"
		pool_create node 256M
		relay_start "$VM_DIR/relay" "$VM_DIR/qsd"
		FIRMWARE="-boot strict=on" VM_MEMORY=768 vm_start -p swiotlb \
			-a "swiotlb=32768,force nokaslr" \
			-object "memory-backend-ram,id=priv,size=512M" \
			-object "memory-backend-file,id=pool,size=256M,share=on,mem-path=$POOL_FILE" \
			-numa node,nodeid=0,memdev=priv,cpus=0-1 -numa node,nodeid=1,memdev=pool \
			-device pxb,id=pxb,bus_nr=64,numa_node=1,bus=pci.0 \
			$(vhost_disk "$VM_DIR/relay" "$MODERN,bus=pxb")
		;;
	qsd-sluice)
		qsd_start "$DISK" "$VM_DIR/qsd"
		pool_create bench "$pool"
		relay_start "$VM_DIR/relay" "$VM_DIR/qsd"
		vm_start -p sluice $(pool_options) $(vhost_disk "$VM_DIR/relay" "$MODERN")
		;;
	own-plain) vm_start -p plain $(own_disk) ;;
	own-swiotlb) vm_start -p swiotlb -a swiotlb=32768,force $(own_disk "$MODERN") ;;
	own-sluice)
		pool_create bench "$pool"
		vm_start -p sluice $(pool_options) $(own_disk "$MODERN")
		;;
	*) die "there is no candidate '$1': $ALL" ;;
	esac
}
vm_firmware() { echo "${FIRMWARE:--bios qboot.rom}"; }

host_seconds() { echo "$seconds"; }
# The guest is booted anew for each round, with one disk.
host_rounds() { echo 1; }
host_disks() { echo vda; }
host_sample() { echo "$ROUND,$CANDIDATE,$2,$3,$4" >>"$CSV"; }

# table: medians, from the CSV.
table() {
	awk -F, -v order="${candidates[*]}" "$AWK_MEDIAN"'
		NR == 1 { next }
		!($3 in unit) { jobs[++nj] = $3; unit[$3] = $5 }
		{ v[$2, $3, ++n[$2, $3]] = $4 }
		END {
			nc = split(order, c, " ")
			for (j = 1; j <= nj; j++) {
				printf "%s (%s)\n", jobs[j], unit[jobs[j]]
				for (i = 1; i <= nc; i++) {
					m = n[c[i], jobs[j]]
					if (!m)
						continue
					for (a = 1; a <= m; a++)
						s[a] = v[c[i], jobs[j], a]
					middle = median(m)
					printf "  %-14s %9.0f  (%.0f to %.0f, %d runs)\n", c[i],
						middle, s[1], s[m], m
				}
			}
		}' "$CSV"
}

KERNEL=$(kernel_get "$series") && ACCEL=$(accel_options "$KERNEL") &&
	MODULE=$(kernel_module "$KERNEL") || exit 1
export KERNEL ACCEL MODULE
export GUEST=$bench/guest.sh
# Guest and backend need a processor each, or the figures are about the host's scheduler.
# The second processor never comes; it is there because QEMU, when there can be one only, translates
# mfence, xchg and locked instructions without any barrier for the host. The driver in the guest then
# writes used_event and reads used->idx in the wrong order, and in time waits for ever for an
# interrupt that a backend in another thread saw no need for (docs/BENCH.md).
VM_CPUS=1,maxcpus=2
VM_TIMEOUT=$((60 + 20 * seconds))
VM_DIR=$(mktemp -d /dev/shm/sluice-bench.XXXXXX) || exit 1
VM_PID=
trap cleanup EXIT
DISK=$VM_DIR/disk
mkdir -p "$ROOT/build/bench"
CSV=$ROOT/build/bench/vm-$series.csv
echo "round,candidate,job,value,unit" >"$CSV"
disk_create "$DISK" 64M

for ((ROUND = 1; ROUND <= rounds; ROUND++)); do
	for ((i = 0; i < ${#candidates[@]}; i++)); do
		# Each round begins at another one.
		CANDIDATE=${candidates[$(((i + ROUND * 2) % ${#candidates[@]}))]}
		say "round $ROUND of $rounds: $CANDIDATE"
		set_up "$CANDIDATE"
		vm_serve >"$VM_DIR/tap" || {
			cp "$VM_DIR"/*.log "$ROOT/build/logs/"
			die "$CANDIDATE: $(grep -m 1 '^not ok' "$VM_DIR/tap");" \
				"the peers' logs are in build/logs/, too"
		}
		peers_stop
	done
done
echo "Debian $(kernel_version "$KERNEL"), $(qemu-system-x86_64 --version | head -n 1), ${ACCEL%% -cpu*}," \
	"$(nproc) CPUs, $rounds rounds of $seconds s a job"
table
echo "All samples: $CSV"
