# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# migrate.sh - host half: a guest moves from one QEMU to another while fio verifies
#
# Theory of operation: two of everything, QEMU, relay and qemu-storage-daemon, on one disk, which
# the second set does not write before the first has stopped. The relay keeps the log of what is
# written to the guest, and the backend never hears of it. That the log is complete can only be
# seen of pages that nothing but the device writes after QEMU has copied them once. So when all has been
# copied, the migration is held open (nearly no bandwidth, and many pages in the log); then the guest reads part
# of the disk into its page cache for the first time (init_on_alloc=0: its processor does not write these pages
# before), and only then is it let go. (Pages of the ring are written by the driver, too, so they come in any case;
# tests/unit/test_shadow_disk.c looks at their bits.) With 6.1 the ring is split, with 6.12 packed.
#
# Both QEMUs are 10.0. 7.2 loses what the guest's processors write during a migration under TCG,
# without any vhost-user device as well: docs/PEERS.md.

vm_test() {
	local ring="" side
	if [ -z "${SLUICE_MIGRATE:-}" ]; then
		tap_skip "a guest moves" "two QEMUs under TCG at once are too slow for ./run test: ./run matrix"
		return
	fi
	case $(kernel_version "$KERNEL") in
	6.1.*) ;;
	*) ring=,packed=on ;;
	esac
	qemu_use "${MIGRATE_QEMU:-10.0}"
	DISK_OPTIONS=",disable-legacy=on$ring"
	disk_create "$VM_DIR/disk" 16M
	for side in from to; do
		qsd_start "$VM_DIR/disk" "$VM_DIR/qsd-$side" \
			"driver=file,node-name=file,filename=$VM_DIR/disk,locking=off"
		shadow_start "$VM_DIR/relay-$side" "$VM_DIR/qsd-$side" --keep --stats "$VM_DIR/stats-$side"
	done
	# shellcheck disable=SC2046 # options
	vm_start -a init_on_alloc=0 $(all_memory_shared) $(vhost_disk "$VM_DIR/relay-from" "$DISK_OPTIONS")
	FROM_CONSOLE=$VM_CONSOLE
	vm_serve
	tap_check "no complaint before the move" not kernel_complaints "$FROM_CONSOLE"
	tap_check "nothing was refused" not grep refused "$VM_DIR/relay.log"
}

# migration_says PATTERN: wait until the first QEMU's monitor says that, for as long as the migration gets on; else
# say what it says, in one line.
migration_says() {
	local still=0 end=$((SECONDS + VM_TIMEOUT)) line="" status="" sent="" before=""
	while [ $((still += 1)) -lt 300 ] && [ $SECONDS -lt $end ]; do
		sleep 0.1
		vm_hmp info migrate
		status=$(vm_hmp_says '^Migration status: ') || continue
		[[ ! $status =~ setup ]] || continue # then there are no figures
		[[ ! $status =~ ^($1) ]] || return 0
		[[ ! $status =~ failed|cancelled|completed ]] || break
		sent=$(vm_hmp_says '^transferred ram: ') || continue
		line=$(vm_hmp_says '^dirty sync count: ') || continue
		[[ ! $line =~ ^($1) ]] || return 0
		[ "$sent" = "$before" ] || before=$sent still=0
	done
	echo "$status, $sent, $line" "$(tail -qn 1 "$VM_DIR/qemu.log" "$VM_DIR/to/qemu.log")"
	return 1
}

# host_copy: start the destination, and return when all memory has been copied to it once.
host_copy() {
	local from="$VM_PID $VM_IN $VM_OUT $VM_MON $VM_MON_OUT" dir=$VM_DIR
	mkdir "$dir/to"
	ln "$dir/initrd" "$dir/to/initrd"
	VM_DIR=$dir/to
	# shellcheck disable=SC2046 # options
	vm_start $(all_memory_shared) $(vhost_disk "$dir/relay-to" "$DISK_OPTIONS") \
		-incoming "unix:$dir/move"
	VM_DIR=$dir
	PEERS+=("$VM_PID")
	TO="$VM_PID $VM_IN $VM_OUT $VM_MON $VM_MON_OUT"
	read -r VM_PID VM_IN VM_OUT VM_MON VM_MON_OUT <<<"$from"
	if ! wait_socket "${TO%% *}" "$dir/move"; then
		cat "$dir/to/qemu.log"
		return 1
	fi
	# However slow or fast the machine is: it does not end before it is told to. At first slowly enough for the
	# guest, which may have little of a processor, to write more than QEMU copies at a time; then nearly
	# not at all.
	vm_hmp migrate_set_parameter max-bandwidth 20M
	vm_hmp migrate_set_parameter downtime-limit 1
	vm_hmp migrate -d "unix:$dir/move"
	if migration_says 'dirty sync count: ([2-9]|[1-9][0-9])'; then
		vm_hmp migrate_set_parameter max-bandwidth 256K
		echo copied
		return
	fi
	# It may have ended already: then the answer to this is awaited there.
	moved "$from"
	return 1
}

# moved "PID ...": the guest is not there any more.
moved() {
	peer_kill "${1%% *}"
	exec {VM_IN}>&- {VM_OUT}>&- {VM_MON}>&- {VM_MON_OUT}>&-
	read -r VM_PID VM_IN VM_OUT VM_MON VM_MON_OUT <<<"$TO"
}

# host_move: returns when the guest runs at the destination, where the answer to this goes.
host_move() {
	local status
	[ "$VM_PID" != "${TO%% *}" ] || return 1
	vm_hmp migrate_set_parameter downtime-limit 20000
	vm_hmp migrate_set_parameter max-bandwidth 0
	migration_says 'Migration status: completed'
	status=$?
	moved "$VM_PID"
	[ $status -eq 0 ] && echo moved
}

# host_tail_sum: of what the guest reads in between.
host_tail_sum() { tail -c 4M "$VM_DIR/disk" | md5sum | cut -d' ' -f1; }

# host_requests SIDE: how many chains that relay has given back.
host_requests() {
	curl -sS --max-time 5 --unix-socket "$VM_DIR/stats-$1" http://relay/metrics |
		awk '/^sluice_relay_requests_total/ { s += $2 } END { print s + 0 }'
}
