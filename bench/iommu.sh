#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/iommu.sh - a disk behind an IOMMU: unprotected, Linux strict and lazy, and Sluice side by side
#
# Theory of operation: one stock guest, one virtio-blk of QEMU's own, and the candidates one after the
# other in the same boot (iommu.guest.sh), rounds times, in an order that changes. A second boot has QEMU
# write down each request to the IOMMU (-trace), and counts those for 1000 requests to the disk of each
# kind: that figure has no noise. For intel-iommu these are invalidations (a mapping is a write to
# memory that QEMU does not see); for virtio-iommu MAP and UNMAP requests. With -i vhost the disk is in a
# process of its own (iommu/disk.c) behind an intel-iommu with device-IOTLB, as QEMU's documentation has it for
# vhost; then it is the messages that QEMU sends that process about addresses, each of which is waited for.
#
# usage: bench/iommu.sh [-d] [-k SERIES] [-i intel|virtio|vhost] [-r ROUNDS] [-t MILLISECONDS_A_JOB] [-c | -a]
#	-c counts only
#	-a counts nothing, and adds rounds to those of the run before: for a machine that is free for
#	   a few minutes at a time
set -u
bench=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/lib/all.sh
. "$bench/../tests/vm/lib/all.sh"
# shellcheck source=bench/lib.sh
. "$bench/lib.sh"

series=6.1
iommu=intel
rounds=5
ms=700
keep=
timed=1
added=
while getopts dk:i:r:t:ca o; do
	case $o in
	d) keep=1 ;;
	k) series=$OPTARG ;;
	i) iommu=$OPTARG ;;
	r) rounds=$OPTARG ;;
	t) ms=$OPTARG ;;
	c) timed= ;;
	a) added=1 ;;
	*) die "usage: bench/iommu.sh [-d] [-k SERIES] [-i intel|virtio|vhost] [-r ROUNDS] [-t MS] [-c | -a]" ;;
	esac
done
behind=$iommu-iommu
[ "$iommu" != vhost ] || behind="intel-iommu, in a process of its own"
candidates=(unprotected linux-strict linux-lazy sluice-auto sluice-bounce sluice-share)

# options: of the IOMMU, and what it writes down when it is counted.
options() {
	case $iommu in
	intel)
		echo "-device intel-iommu,intremap=off"
		[ -z "$1" ] || echo "-trace vtd_inv_desc_iotlb_* -D $VM_DIR/trace"
		;;
	virtio)
		echo "-device virtio-iommu-pci"
		[ -z "$1" ] || echo "-trace virtio_iommu_map -trace virtio_iommu_unmap -D $VM_DIR/trace"
		;;
	vhost)
		echo "-device intel-iommu,intremap=off,device-iotlb=on $(all_memory_shared)"
		[ -z "$1" ] || echo "-trace vhost_user_write -D $VM_DIR/trace"
		;;
	*) die "there is no IOMMU '$iommu': intel, virtio (6.12), or vhost" ;;
	esac
}

# disk: QEMU's options for it.
disk() {
	local place=num-queues=1,disable-legacy=on,iommu_platform=on
	if [ "$iommu" = vhost ]; then
		backend_start "$VM_DIR/disk.socket" "$ROOT/build/bench/iommu-disk" "$VM_DIR/disk.socket" 67108864
		DISK="-chardev socket,id=disk,path=$VM_DIR/disk.socket
			-device pcie-root-port,id=root,chassis=1,addr=05.0
			-device vhost-user-blk-pci,bus=root,chardev=disk,ats=on,$place"
	else
		DISK="-drive if=none,id=disk,format=raw,file=$VM_DIR/disk -device virtio-blk-pci,addr=05.0,drive=disk,$place"
	fi
}

# boot PART
# shellcheck disable=SC2046,SC2086 # options
boot() {
	turn=0
	disk
	set -f # the trace's pattern is QEMU's
	vm_start -p "$1" -a "intel_iommu=on" $(options "${1#time}") $DISK
	set +f
	vm_serve >"$VM_DIR/tap" || die "$(grep -m 1 '^not ok' "$VM_DIR/tap")"
}

host_milliseconds() { echo "${ms}ms"; }
# host_next: which candidate; each round begins at another one.
host_next() {
	local n=${#candidates[@]} most=$rounds
	[ "$VM_PART" = time ] || most=1
	if [ $((turn / n)) -ge "$most" ]; then
		echo end
	else
		CANDIDATE=${candidates[$(((turn + 2 * (turn / n)) % n))]}
		[ "$VM_PART" = count ] || [ $((turn % n)) != 0 ] || say "round $((turn / n + 1)) of $most" 2>&9
		echo "$CANDIDATE"
	fi
	turn=$((turn + 1))
}
host_sample() { echo "$(((turn - 1) / ${#candidates[@]} + first)),$1,$2,$3,$4" >>"$CSV"; }
# VHOST_USER_IOTLB_MSG is 22.
requests() { grep -c "vtd_inv_desc_iotlb\|virtio_iommu_map\|virtio_iommu_unmap\|vhost_user_write req:22 " "$VM_DIR/trace"; }
host_mark() { marked=$(requests); }
host_counted() { echo "$1,$2,$(($(requests) - marked))" >>"$COUNTS"; }

# head_of_table COLUMN...: a column for each candidate, then these.
head_of_table() {
	local c line="| |" rule="|---|"
	for c in "${candidates[@]}" "$@"; do
		line+=" $c |"
		rule+="---|"
	done
	printf '%s\n' "$line" "$rule"
}

# table: medians with lowest and highest, as Markdown, and what the plot wants. Ratios are medians of each round's
# own, as the machine's speed changes from one to the next.
table() {
	head_of_table "auto : strict" "auto : better of both"
	awk -F, -v order="${candidates[*]}" -v out="$1" "$AWK_MEDIAN"'
		NR == 1 { next }
		!($3 in unit) { jobs[++nj] = $3; unit[$3] = $5 }
		{
			v[$2, $3, $1] = $4
			if ($1 > rounds)
				rounds = $1
		}
		function med(c, j, over,    m, a, base, mid) {
			m = 0
			for (a = 1; a <= rounds; a++) {
				base = over == "" ? 1 : v[over, j, a]
				if ((c, j, a) in v && base > 0)
					s[++m] = v[c, j, a] / base
			}
			if (!m)
				return 0
			mid = median(m)
			low = s[1]; high = s[m]
			return mid
		}
		END {
			nc = split(order, c, " ")
			for (j = 1; j <= nj; j++) {
				line = "| " jobs[j] ", " unit[jobs[j]] " |"
				row = jobs[j]
				for (i = 1; i <= nc; i++) {
					mid = med(c[i], jobs[j])
					line = line sprintf(" %.0f (%.0f..%.0f) |", mid, low, high)
					row = row " " med(c[i], jobs[j], "unprotected")
				}
				mid = med("sluice-auto", jobs[j], "linux-strict")
				line = line sprintf(" %.2f (%.2f..%.2f) |", mid, low, high)
				a = med("sluice-auto", jobs[j], "sluice-bounce")
				b = med("sluice-auto", jobs[j], "sluice-share")
				printf "%s %.2f |\n", line, a < b ? a : b
				print row >out
			}
		}' "$CSV"
}

counts() {
	head_of_table
	awk -F, -v order="${candidates[*]}" '
		NR == 1 { next }
		!($2 in seen) { jobs[++nj] = $2; seen[$2] = 1 }
		{ v[$1, $2] = $3 }
		END {
			nc = split(order, c, " ")
			for (j = 1; j <= nj; j++) {
				line = "| " jobs[j] " |"
				for (i = 1; i <= nc; i++)
					line = line " " v[c[i], jobs[j]] " |"
				print line
			}
		}' "$COUNTS"
}

# plot DATA OUT: each candidate beside no protection.
plot() {
	local lines="" i
	for i in "${!candidates[@]}"; do
		lines+="\"$1\" using $((i + 2)):xtic(1) title \"${candidates[i]}\", "
	done
	gnuplot <<-END
		set terminal svg size 860,420 font "sans,12" background "white"
		set output "$2"
		set title "a disk behind $behind, Linux $series: throughput, no protection = 1"
		set style data histograms
		set style histogram clustered gap 1
		set style fill solid 0.8 border -1
		set yrange [0:*]
		set grid y
		set xtics rotate by -20
		set key outside right
		plot ${lines%, }
	END
}

KERNEL=$(kernel_get "$series") && ACCEL=$(accel_options "$KERNEL") &&
	MODULE=$(kernel_module "$KERNEL") || exit 1
export KERNEL ACCEL MODULE
export GUEST=$bench/iommu.guest.sh
VM_MACHINE=q35
VM_CPUS=1,maxcpus=2 # see bench/vm.sh
VM_TIMEOUT=$((60 + rounds * (10 + ms * 60 / 1000)))
[ "$iommu" != virtio ] || IMAGE_MODULES="$IMAGE_MODULES virtio-iommu"
VM_DIR=$(mktemp -d /dev/shm/sluice-bench.XXXXXX) || exit 1
VM_PID=
trap cleanup EXIT
mkdir -p "$ROOT/build/bench"
CSV=$ROOT/build/bench/iommu-$iommu-$series.csv
COUNTS=$ROOT/build/bench/iommu-$iommu-$series-counts.csv
disk_create "$VM_DIR/disk" 64M
[ "$iommu" != vhost ] || make_in_turn -s bench-iommu || die "bench/iommu/disk.c does not build"

echo "Debian $(kernel_version "$KERNEL"), $behind, $(qemu-system-x86_64 --version | head -n 1)," \
	"${ACCEL%% -cpu*}, $(nproc) CPUs"
[ -n "$added" ] || {
	VM_PART="count"
	echo "candidate,job,requests" >"$COUNTS"
	boot count
}
echo "Requests to the IOMMU for 1000 to the disk ($COUNTS):"
counts
[ -z "$timed" ] || {
	VM_PART="time"
	[ -n "$added" ] && [ -e "$CSV" ] || echo "round,candidate,job,value,unit" >"$CSV"
	first=$(($(tail -n 1 "$CSV" | cut -d, -f1 | sed s/round/0/) + 1))
	boot time
	echo "$((first + rounds - 1)) rounds of $ms ms a job ($CSV): medians (lowest..highest)"
	table "$VM_DIR/plot"
}
if [ -n "$keep" ]; then
	cp "$COUNTS" "$ROOT/docs/bench-iommu-$iommu-$series-counts.csv"
	[ -z "$timed" ] || {
		cp "$CSV" "$ROOT/docs/bench-iommu-$iommu-$series.csv"
		plot "$VM_DIR/plot" "$ROOT/docs/bench-iommu-$iommu-$series.svg"
	}
fi
