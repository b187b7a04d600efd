# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# kill.sh - host half: backend, relay and front-end are killed (-9) under verification, in a loop
#
# Theory of operation: first libblkio is the front-end: while it writes and verifies a disk, the
# backend is killed and started again; then it is killed itself, and the next one verifies. Then a
# guest's fio verifies while backend and relay are killed in turns; QEMU connects anew every second
# (reconnect=1) and brings the in-flight buffer that the relay gave it. SOAK_ROUNDS says how often each
# is killed (2); ./run soak makes it many. With 6.1 the guest's ring is split, with 6.12 there are two packed ones,
# each served by a thread of the relay (--threads 2), and libblkio, which has split ones only, is left out.

vm_test() {
	: "${SOAK_ROUNDS:=2}"
	case $(kernel_version "$KERNEL") in
	6.1.*) DISK_QUEUES=1 ;;
	*) DISK_QUEUES=2 ;;
	esac
	disk_create "$VM_DIR/disk" 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	host_start_relay >/dev/null
	local dir ring=""
	case $(kernel_version "$KERNEL") in
	6.1.*)
		dir=$(suite_get trixie libblkio libblkio1 libblkio-dev) &&
			make_in_turn -s bench-relay "BLKIO=$dir" || exit 1
		here "libblkio verifies while its backend is killed" backend_killed
		here "libblkio verifies after another was killed" frontend_killed
		;;
	*) ring=,packed=on ;;
	esac
	# shellcheck disable=SC2046 # options
	vm_run $(all_memory_shared) \
		$(vhost_disk "$VM_DIR/relay" ",disable-legacy=on$ring" ,reconnect=1)
}

# here NAME CMD: tap_check in this shell, whose processes CMD kills and starts.
here() {
	if $2 >"$VM_DIR/here" 2>&1; then
		tap_ok "$1"
	else
		tap_not_ok "$1" "$(tail -n 3 "$VM_DIR/here" "$VM_DIR/relay.log")"
	fi
}

load() { timeout $((60 + 5 * SOAK_ROUNDS)) "$ROOT/build/bench/relay-load" "$VM_DIR/relay" "$@"; }

backend_killed() {
	local n load
	load verify 4096 32 $((20 * SOAK_ROUNDS)) wait &
	load=$!
	for ((n = 0; n < SOAK_ROUNDS; n++)); do
		sleep 0.2
		host_kill_backend
		sleep 0.2
		host_start_backend >/dev/null
	done
	wait $load
}

frontend_killed() {
	local n load
	for ((n = 0; n < SOAK_ROUNDS; n++)); do
		"$ROOT/build/bench/relay-load" "$VM_DIR/relay" verify 8192 32 100 wait &
		load=$!
		sleep 0.3
		peer_kill $load
	done
	alive "$RELAY_PID" && load verify 4096 32 1 wait
}

host_rounds() { echo "$SOAK_ROUNDS"; }
host_kill_backend() { peer_kill "$QSD_PID"; }
host_start_backend() { qsd_start "$VM_DIR/disk" "$VM_DIR/qsd" && echo started; }
host_kill_relay() { peer_kill "$RELAY_PID"; }
host_start_relay() {
	shadow_start "$VM_DIR/relay" "$VM_DIR/qsd" --keep --threads "$DISK_QUEUES" && echo started
}
host_queues() { echo "$DISK_QUEUES"; }
