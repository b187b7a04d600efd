#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/relay-guest.sh - what the relay's mode shadow costs a stock guest
#
# Theory of operation: one stock guest of Debian's has two vhost-user disks, alike, each with a
# qemu-storage-daemon of its own: the first directly, the second through a relay that holds all of
# the guest's memory. fio goes from one to the other, job by job, so that both meet the same boot and
# the same neighbours of this machine: boots differ by a factor of two, and what is compared here by
# much less. The figure is the ratio of a job's two results in a round, its median over the rounds.
#
# usage: bench/relay-guest.sh [-k SERIES] [-r ROUNDS] [-t SECONDS_A_JOB] [OPTION_OF_THE_RELAY]...
set -u
bench=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/lib/all.sh
. "$bench/../tests/vm/lib/all.sh"
# shellcheck source=bench/lib.sh
. "$bench/lib.sh"

series=6.1
rounds=7
seconds=1
while getopts k:r:t: o; do
	case $o in
	k) series=$OPTARG ;;
	r) rounds=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) die "usage: bench/relay-guest.sh [-k SERIES] [-r ROUNDS] [-t SECONDS] [RELAY OPTION]..." ;;
	esac
done
shift $((OPTIND - 1))
relay_options=("$@")

host_seconds() { echo "$seconds"; }
host_rounds() { echo "$rounds"; }
# Who begins has the other's leftovers in no cache.
host_disks() {
	say "round $1 of $rounds" 2>&9
	if [ $(($1 % 2)) = 1 ]; then echo vda vdb; else echo vdb vda; fi
}
host_sample() {
	local candidate=direct
	[ "$1" = vda ] || candidate=shadow
	echo "$candidate,$2,$3,$4" >>"$CSV"
}

# disk N SOCKET
disk() {
	echo "-chardev socket,id=disk$1,path=$2" \
		"-device vhost-user-blk-pci,chardev=disk$1,num-queues=1,addr=0$((4 + $1)).0"
}

KERNEL=$(kernel_get "$series") && ACCEL=$(accel_options "$KERNEL") || exit 1
export KERNEL ACCEL
export GUEST=$bench/guest.sh
# As in bench/vm.sh, and for the same reasons.
VM_CPUS=1,maxcpus=2
VM_TIMEOUT=$((60 + rounds * 12 * (seconds + 3)))
VM_MEMORY=512
VM_DIR=$(mktemp -d /dev/shm/sluice-bench.XXXXXX) || exit 1
VM_PID=
trap cleanup EXIT
mkdir -p "$ROOT/build/bench"
CSV=$ROOT/build/bench/relay-guest.csv
echo "candidate,job,value,unit" >"$CSV"
for n in 1 2; do
	disk_create "$VM_DIR/disk$n" 64M
	qsd_start "$VM_DIR/disk$n" "$VM_DIR/qsd$n"
done
shadow_start "$VM_DIR/relay" "$VM_DIR/qsd2" "${relay_options[@]}"
# shellcheck disable=SC2046 # options
vm_start -p plain $(all_memory_shared) $(disk 1 "$VM_DIR/qsd1") $(disk 2 "$VM_DIR/relay")
vm_serve >"$VM_DIR/tap" || {
	cp "$VM_DIR"/*.log "$ROOT/build/logs/"
	die "$(grep -m 1 '^not ok' "$VM_DIR/tap"); the peers' logs are in build/logs/, too"
}

echo "Debian $(kernel_version "$KERNEL"), $(qemu-system-x86_64 --version | head -n 1), ${ACCEL%% -cpu*}," \
	"$(nproc) CPUs, $rounds rounds of $seconds s a job; ./run bench relay-guest ${relay_options[*]}"
awk -F, "$AWK_MEDIAN"'
	NR == 1 { next }
	!($2 in unit) { jobs[++nj] = $2; unit[$2] = $4 }
	{ v[$1, $2, ++n[$1, $2]] = $3 }
	function of(candidate, job, m,   a) {
		for (a = 1; a <= m; a++)
			s[a] = v[candidate, job, a]
		return sprintf("%.0f (%.0f to %.0f)", median(m), s[1], s[m])
	}
	END {
		print "| job | direct | shadow | shadow : direct |"
		print "|---|---|---|---|"
		for (j = 1; j <= nj; j++) {
			job = jobs[j]
			m = n["direct", job]
			line = "| " job ", " unit[job] " | " of("direct", job, m) " | " of("shadow", job, m) " | "
			for (a = 1; a <= m; a++)
				s[a] = v["shadow", job, a] / v["direct", job, a]
			ratio = median(m)
			printf "%s%.2f (%.2f to %.2f) |\n", line, ratio, s[1], s[m]
		}
	}' "$CSV"
say "All samples: $CSV"
