#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/relay.sh - what the relay's mode shadow costs: the same backend directly and through it
#
# Theory of operation: the load is libblkio (bench/relay/load.c), a stock front-end that needs no
# guest; the backend is qemu-storage-daemon. There is no time but that of three processes on this
# machine's processors. A round runs every job with every candidate, candidates in an order that
# changes from job to job and round to round, so that whatever else the machine does hits all alike;
# a figure is the median over the rounds, with the lowest and the highest. Candidates:
#
#	direct	load and backend alone
#	shadow	the relay in between, as it is by default
#	poll	the same, spinning for a millisecond before it sleeps
#	sleep	the same, never spinning (only if asked for)
#
# Jobs: null-co (a disk that does nothing: all that is left is the way to it) and a file in the page
# cache. At queue depth 32 the load sleeps when nothing has completed, at depth 1 it spins, as an
# application does that wants latency.
#
# Besides, for the relay: the rate of its copying, twice: "copying" is bytes moved / its processor time,
# which charges the copying with everything else that it does, spinning included; "copying-alone" takes
# of that time what perf finds in copying and clearing. Beside that, what memcpy reaches in the same round
# on the same working set (bench/relay/copy.c): in its own caches, and ("peer") while another processor does
# with the blocks what the backend does, or ("peer-shared") while that has the same processor, or ("paced") while it hands
# the blocks over at the pace at which requests went through the relay in this round, which is the comparison that counts: "alone" and
# "peer" have each block again before others have driven it out of the cache. "clear" and "stream" are the relay's own loops in place
# of memcpy.
# For depth 1, "hops": what the way there and back costs if nobody does anything with what goes by
# (bench/relay/hops.c), directly and through a third process, for a backend that is as busy as the direct one was
# in this round: the least that can be had with a backend that sleeps, on these processors.
# "paced": one request at a time, so many a second: the share of a processor that the relay burns, spinning or waking up,
# and the mean latency, three rounds.
# How often it wakes up in ten idle seconds with a connected front-end. The most that its pool held
# beside the bytes in flight. And by perf where its time goes, function by function.
#
# usage: bench/relay.sh [-d] [-r ROUNDS] [-t SECONDS_A_JOB] [CANDIDATE]...
#	-d	the table and the CSV replace those in docs/
set -u
bench=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/lib/all.sh
. "$bench/../tests/vm/lib/all.sh"

rounds=5
seconds=1
docs=
while getopts dr:t: o; do
	case $o in
	d) docs=1 ;;
	r) rounds=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) die "usage: bench/relay.sh [-d] [-r ROUNDS] [-t SECONDS] [CANDIDATE]..." ;;
	esac
done
shift $((OPTIND - 1))
read -ra candidates <<<"${*:-direct shadow poll}"

# name, backend, operation, block size, depth, how the load waits, unit
JOBS="4k-randread-qd32 null read 4096 32 wait IOPS
4k-randwrite-qd32 null write 4096 32 wait IOPS
4k-randread-qd1 null read 4096 1 poll us
4k-randwrite-qd1 null write 4096 1 poll us
128k-read-qd32 file read 131072 32 wait MiB/s
128k-write-qd32 file write 131072 32 wait MiB/s"

NULL_DISK=driver=null-co,node-name=file,size=1073741824
FILE_BYTES=256M
LOAD=$ROOT/build/bench/relay-load
COPY=$ROOT/build/bench/relay-copy
HOPS=$ROOT/build/bench/relay-hops

cleanup() {
	peers_stop
	rm -rf "$VM_DIR"
}

# processor_ns: what the relay has used so far, all of its threads.
processor_ns() {
	cat "/proc/$RELAY_PID/task"/*/schedstat | awk '{ n += $1 } END { printf "%.0f\n", n }'
}

# wake_ups: how often its threads and its helper gave up a processor or lost one.
wake_ups() {
	local p
	for p in "/proc/$RELAY_PID" $(sed 's|[0-9]\+|/proc/&|g' "/proc/$RELAY_PID/task/$RELAY_PID/children"); do
		cat "$p"/task/*/status
	done | awk '/ctxt_switches/ { n += $2 } END { print n }'
}

sample() { echo "$ROUND,$1,$2,$3,$4" >>"$CSV"; }

# peers_up CANDIDATE BACKEND: start them; sets SOCKET.
peers_up() {
	SOCKET=$VM_DIR/qsd
	if [ "$2" = null ]; then
		qsd_start - "$SOCKET" "$NULL_DISK"
	else
		qsd_start "$DISK" "$SOCKET"
	fi
	case $1 in
	direct) return ;;
	shadow) shadow_start "$VM_DIR/relay" "$SOCKET" --keep --stats "$VM_DIR/stats" ;;
	poll) shadow_start "$VM_DIR/relay" "$SOCKET" --keep --stats "$VM_DIR/stats" --poll 1000 ;;
	sleep) shadow_start "$VM_DIR/relay" "$SOCKET" --keep --stats "$VM_DIR/stats" --poll 0 ;;
	*) die "there is no candidate '$1': direct, shadow, poll, sleep" ;;
	esac
	SOCKET=$VM_DIR/relay
}

# one_job CANDIDATE NAME BACKEND OPERATION BLOCK DEPTH WAIT UNIT
one_job() {
	local result before after ns rate high
	peers_up "$1" "$3"
	[ "$1" = direct ] || before=$(processor_ns)
	result=$(timeout 60 "$LOAD" "$SOCKET" "$4" "$5" "$6" "$seconds" "$7") ||
		die "$1, $2: the load failed; the relay's last words: $(tail -n 3 "$VM_DIR/relay.log")"
	# shellcheck disable=SC2086 # its fields
	set -- "$1" "$2" "$5" "$6" "$8" $result
	# Here: candidate, job, block, depth, unit, IOPS, mean, median, 99th percentile
	case $5 in
	IOPS) sample "$1" "$2" "$6" IOPS ;;
	us)
		sample "$1" "$2" "$7" us
		sample "$1" "$2-p50" "$8" us
		sample "$1" "$2-p99" "$9" us
		;;
	MiB/s) sample "$1" "$2" "$(awk "BEGIN { print $6 * $3 / 1048576 }")" MiB/s ;;
	esac
	if [ "$1" != direct ]; then
		after=$(processor_ns)
		# The ramp of a quarter of a second costs processor time as well.
		awk -v ns=$((after - before)) -v iops="$6" -v s="$seconds" -v block="$3" 'BEGIN {
			n = iops * (s + 0.25)
			print ns / n, n * block / 1048576 / (ns / 1e9) }' >"$VM_DIR/cost"
		read -r ns rate <"$VM_DIR/cost"
		sample "$1" "$2-relay-cpu" "$ns" ns/request
		case $2 in
		128k*)
			sample "$1" "$2-copying" "$rate" MiB/s
			high=$(pool_high "$3" "$4") || die "$1, $2: the relay gives no statistics"
			sample "$1" "$2-pool-high" "$high" times
			;;
		esac
	fi
	peers_stop
}

# pool_high BLOCK DEPTH: the most that the pool ever held, beside the bytes in flight and the rings.
# A request has a header of 16 bytes and a status of one besides.
pool_high() {
	local high rings
	high=$(relay_stat sluice_relay_pool_used_max_bytes) &&
		rings=$(relay_stat sluice_relay_ring_bytes) || return 1
	awk -v high="$high" -v rings="$rings" -v n=$(($2 * ($1 + 17))) \
		'BEGIN { print high / (n + rings) }'
}

# copies JOB: what the machine can do in the job's direction.
copies() {
	local direction=back kinds="memcpy clear stream" pace what
	[ "$1" = 128k-read-qd32 ] || { direction=in kinds=memcpy; }
	pace=$(awk -F, -v r="$ROUND" -v j="$1" \
		'$1 == r && $2 != "direct" && $3 == j { printf "%.0f\n", $4 * 8; exit }' "$CSV")
	for what in $kinds; do
		sample "$what" "$1-copying-alone" "$("$COPY" alone 131072 32 0.3 "$what")" MiB/s
		sample "$what-peer" "$1-copying-alone" "$("$COPY" $direction 131072 32 0.3 "$what")" MiB/s
		sample "$what-peer-shared" "$1-copying-alone" "$("$COPY" $direction-shared 131072 32 0.3 "$what")" MiB/s
		sample "$what-paced" "$1-copying-alone" "$("$COPY" $direction 131072 32 0.3 "$what" "${pace:-20000}")" MiB/s
	done
}

# hops JOB: the way alone.
hops() {
	local work how
	# The direct one's mean is what the backend takes for a request, before and after its answer.
	work=$(awk -F, -v r="$ROUND" -v j="$1" \
		'$1 == r && $2 == "direct" && $3 == j { printf "%.0f\n", $4 * 500 }' "$CSV")
	for how in direct yield sleep; do
		sample $how "$1-hops" "$(timeout 20 "$HOPS" $how "${work:-1500}" 0.5)" us
	done
}

# profile NAME BACKEND OPERATION BLOCK DEPTH WAIT UNIT: by function, of the default relay. The clock is
# sampled: a virtual machine has no counters.
profile() {
	local before after ns load
	peers_up shadow "$2"
	before=$(processor_ns)
	"$LOAD" "$SOCKET" "$3" "$4" "$5" 3 "$6" >"$VM_DIR/load" &
	load=$!
	sleep 0.4
	perf record -q -e cpu-clock -F 3000 -o "$VM_DIR/perf" -p "$RELAY_PID" sleep 2.5 >/dev/null 2>&1
	wait $load || die "$1: the load failed under perf"
	after=$(processor_ns)
	# perf looks for a living process' files where that one sees them, and the relay sees none.
	peers_stop
	perf report -i "$VM_DIR/perf" --no-children --sort symbol -F overhead,symbol --stdio 2>/dev/null |
		awk '/%/ { sub("%", "", $1); print $1, $2 == "[k]" ? "kernel" : "", $3 }' |
		sort -rn >"$VM_DIR/profile"
	[ -s "$VM_DIR/profile" ] || {
		say "perf gives no samples here"
		return
	}
	ns=$((after - before))
	case $4 in
	131072)
		awk -v ns=$ns -v block="$4" -v iops="$(cut -d' ' -f1 "$VM_DIR/load")" '
			/mem(cpy|move|set)|move_and_clear|(through|past)_caches/ { part += $1 / 100 }
			END { print iops * 3.25 * block / 1048576 / (part * ns / 1e9) }' "$VM_DIR/profile" >"$VM_DIR/cost"
		sample shadow "$1-copying-alone" "$(cat "$VM_DIR/cost")" MiB/s
		;;
	esac
	awk -v job="$1" -v ns="$(awk -v ns=$ns '{ print ns / ($1 * 3.25) }' "$VM_DIR/load")" '
		NR == 1 { printf "| %s: %.0f ns of processor time a request | |\n|---|---|\n", job, ns }
		NR <= 14 { printf "| %s | %.1f %% |\n", $2 == "kernel" ? $3 " (kernel)" : $2, $1; next }
		{ rest += $1 }
		END { printf "| all others | %.1f %% |\n\n", rest }' "$VM_DIR/profile" >"$PROFILES/$1"
}

# idle CANDIDATE: ten seconds with a connected front-end that asks for nothing.
idle() {
	local before after load
	peers_up "$1" null
	"$LOAD" "$SOCKET" idle 4096 1 14 wait >/dev/null &
	load=$!
	sleep 2
	before=$(wake_ups)
	[ "${before:-0}" -gt 0 ] || die "$1: /proc does not say how often the relay ran"
	sleep 10
	after=$(wake_ups)
	sample "$1" idle-10s $((after - before)) wake-ups
	wait $load || die "$1, idle: the load failed"
	peers_stop
}

# paced CANDIDATE RATE: what it burns, and what a request takes, where the front-end asks for little.
paced() {
	local before after result
	peers_up "$1" null
	[ "$1" = direct ] || before=$(processor_ns)
	result=$(timeout 60 "$LOAD" "$SOCKET" paced 4096 1 2 wait "$2") || die "$1: the load at $2 a second failed"
	[ "$1" = direct ] || {
		after=$(processor_ns)
		sample "$1" "paced-$2-relay-cpu" "$(awk "BEGIN { print ($after - $before) / 2e7 }")" "% of a processor"
	}
	read -r _ result _ <<<"$result"
	sample "$1" "paced-$2" "$result" us
	peers_stop
}

BLKIO=$(suite_get trixie libblkio libblkio1 libblkio-dev) || exit 1
make_in_turn -s bench-relay BLKIO="$BLKIO" || exit 1
VM_DIR=$(mktemp -d /dev/shm/sluice-bench.XXXXXX) || exit 1
trap cleanup EXIT
DISK=$VM_DIR/disk
disk_create "$DISK" $FILE_BYTES
mkdir -p "$ROOT/build/bench"
CSV=$ROOT/build/bench/relay.csv
TABLE=$ROOT/build/bench/relay.md
PROFILES=$VM_DIR/profiles
mkdir "$PROFILES"
PERF=$(command -v perf)
echo "round,candidate,job,value,unit" >"$CSV"

turn=0
for ((ROUND = 1; ROUND <= rounds; ROUND++)); do
	say "round $ROUND of $rounds"
	while read -r name backend operation block depth how unit; do
		for ((i = 0; i < ${#candidates[@]}; i++)); do
			one_job "${candidates[$(((i + turn) % ${#candidates[@]}))]}" "$name" \
				"$backend" "$operation" "$block" "$depth" "$how" "$unit" </dev/null
		done
		turn=$((turn + 1))
	done <<<"$JOBS"
	while read -r name backend operation block depth how unit; do
		[ "$unit" != us ] || hops "$name"
		[ "$block" = 131072 ] || continue
		copies "$name" </dev/null
		[ -z "$PERF" ] ||
			profile "$name" "$backend" "$operation" "$block" "$depth" "$how" "$unit" </dev/null
	done <<<"$JOBS"
done
if [ -n "$PERF" ]; then
	say "profile"
	while read -r name backend operation block depth how unit; do
		[ "$block" = 131072 ] ||
			profile "$name" "$backend" "$operation" "$block" "$depth" "$how" "$unit" </dev/null
	done <<<"$JOBS"
else
	say "there is no perf: nothing is said about where the time goes"
fi
say "paced"
for ((ROUND = 1; ROUND <= rounds && ROUND <= 3; ROUND++)); do
	for rate in 500 1000 2000 4000 8000; do
		for candidate in "${candidates[@]}"; do paced "$candidate" $rate; done
	done
done
say "idle"
ROUND=1
for candidate in "${candidates[@]}"; do
	[ "$candidate" = direct ] || idle "$candidate"
done

# table: medians as Markdown, from the CSV.
table() {
	awk -F, -v order="${candidates[*]} yield sleep memcpy clear stream memcpy-peer clear-peer stream-peer memcpy-peer-shared clear-peer-shared stream-peer-shared memcpy-paced clear-paced stream-paced" '
		NR == 1 { next }
		!($3 in unit) { jobs[++nj] = $3; unit[$3] = $5 }
		{ v[$2, $3, ++n[$2, $3]] = $4 }
		function median(c, j,   m, a, b, t, mid) {
			m = n[c, j]
			for (a = 1; a <= m; a++)
				s[a] = v[c, j, a]
			for (a = 2; a <= m; a++)
				for (b = a; b > 1 && s[b] + 0 < s[b - 1] + 0; b--) {
					t = s[b]; s[b] = s[b - 1]; s[b - 1] = t
				}
			mid = int((m + 1) / 2)
			return m % 2 ? s[mid] : (s[mid] + s[mid + 1]) / 2
		}
		END {
			print "| job | candidate | median | lowest | highest | of direct, or of memcpy-paced |"
			print "|---|---|---|---|---|---|"
			nc = split(order, c, " ")
			for (j = 1; j <= nj; j++) {
				job = jobs[j]
				against = ("direct", job, 1) in v ? "direct" : "memcpy-paced"
				base = (against, job, 1) in v ? median(against, job) : 0
				for (i = 1; i <= nc; i++) {
					if (!n[c[i], job])
						continue
					m = median(c[i], job)
					form = m < 1000 ? "%.4g" : "%.0f"
					printf "| %s, %s | %s | " form " | " form " | " form " | %s |\n",
						job, unit[job], c[i], m, s[1], s[n[c[i], job]],
						base && c[i] != against ? sprintf("%.2f", m / base) : ""
				}
			}
		}' "$CSV"
}
{
	echo "$(qemu-storage-daemon --version | head -n 1), libblkio, $(nproc) CPUs," \
		"$rounds rounds of $seconds s a job; ./run bench relay"
	echo
	table
} | tee "$TABLE"
if [ -n "$docs" ]; then
	cp "$CSV" "$ROOT/docs/bench-relay.csv"
	cp "$TABLE" "$ROOT/docs/bench-relay.md"
	while read -r name _; do
		[ ! -e "$PROFILES/$name" ] || { echo && cat "$PROFILES/$name"; } >>"$ROOT/docs/bench-relay.md"
	done <<<"$JOBS"
fi
say "All samples: $CSV"
