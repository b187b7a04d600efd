# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# disk.sh - host half: qemu-storage-daemon behind the relay, and directly with all memory shared
#
# Theory of operation: the audit's exit status is its verdict: 0 with Sluice, where all that the
# backend reaches is the pool; 3 today. The relay's system calls are counted by strace over a
# stretch of requests that begins and ends at the guest's word, and over another one the scheduler's
# count has to stand still.

vm_test() {
	disk_create "$VM_DIR/disk" 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	pool_create disk 16M
	relay_start "$VM_DIR/relay" "$VM_DIR/qsd"
	# shellcheck disable=SC2046 # options
	vm_run -p sluice $(pool_options) \
		$(vhost_disk "$VM_DIR/relay" ,disable-legacy=on,iommu_platform=on)
	# As it is done today no part of Sluice is in the guest: one kernel will do.
	case $(kernel_version "$KERNEL") in
	6.1.*) ;;
	*) return ;;
	esac
	peers_stop
	pool_create disk 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	# shellcheck disable=SC2046
	vm_run -p today -machine memory-backend=ram \
		-object "memory-backend-memfd,id=ram,share=on,size=${VM_MEMORY}M" \
		$(pool_options) $(vhost_disk "$VM_DIR/qsd")
}

# host_audit PART: succeeds if the audit's verdict is the one for that part.
host_audit() {
	local status want=0
	[ "$1" = sluice ] || want=3
	audit_says "$QSD_PID" --share "$POOL_FILE"
	status=$?
	[ $status -eq $want ] || {
		echo "exit status $status and not $want: $(tail -n 1 "$VM_DIR/audit")"
		return 1
	}
}

# relay_processes: the relay and its helper.
relay_processes() { echo "$RELAY_PID $(cat "/proc/$RELAY_PID/task/$RELAY_PID/children")"; }

# relay_switches: how often they gave up a processor or lost it. A process that is blocked all the
# time, in the one call that it was in before, adds nothing.
relay_switches() {
	local p
	for p in $(relay_processes); do
		cat "/proc/$p/status"
	done | awk '/ctxt_switches/ { n += $2 } END { print n }'
}

host_watch() { SWITCHES=$(relay_switches); }
host_watched() { echo $(($(relay_switches) - SWITCHES)); }

# The relay cannot be traced by an ordinary user: it has made itself undumpable.
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo -n)
# By the shell's kill: a minimal Debian has no other.
# shellcheck disable=SC2016 # for that shell
untrace() { "${sudo[@]}" sh -c 'kill "$0"' "$(cat "$VM_DIR/trace.pid")"; }
host_trace() {
	local p options=() n=50 processes
	processes=$(relay_processes)
	for p in $processes; do
		options+=(-p "$p")
	done
	# Its own number, and not sudo's, is needed to end it.
	# shellcheck disable=SC2016 # for that shell
	"${sudo[@]}" sh -c 'echo $$ >"$0.pid"; exec strace -f -o "$0" "$@"' "$VM_DIR/trace" \
		"${options[@]}" 2>"$VM_DIR/strace" &
	STRACE=$!
	until [ "$(grep -c attached "$VM_DIR/strace")" -eq "$(echo "$processes" | wc -w)" ]; do
		if [ ! -d "/proc/$STRACE" ] || [ $((n -= 1)) -eq 0 ]; then
			untrace 2>/dev/null
			echo "strace cannot attach here: $(head -n 1 "$VM_DIR/strace")"
			return 1
		fi
		sleep 0.1
	done
}

# A call that the relay was in when strace came, and in which it still is, is shown but was not
# made in between: count what returned.
host_traced() {
	untrace
	wait "$STRACE"
	grep -c ' = ' "$VM_DIR/trace"
}
