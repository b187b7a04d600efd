# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# backends.sh - host half: backends of devices that are neither disk nor file system, behind mode shadow
#
# Theory of operation: as matrix.sh, with other devices: each has a stock backend, a relay of its own and a row of checks in
# the guest, and goes by the same code of the relay as a disk does.
#
#	vsock	vhost-device-vsock, which Debian has in sid only
#	rng	vhost-device-rng, and
#	scsi	vhost-device-scsi: no package; where VHOST_DEVICES names a folder that has the program
#
# What is not there is skipped, and the reason said. Run by hand and by tests/vm/matrix, and not by ./run test: sid
# changes under our hands.
#
#	BACKENDS_QEMU	system | 10.0
#	BACKENDS_RING	split | packed
#	BACKENDS_RELAY	shadow | direct (to tell a backend's fault from the relay's)

declare -A BACKEND RELAY START SKIP

vm_test() {
	# shellcheck disable=SC2153 # set by run
	case $(kernel_version "$KERNEL") in
	6.1.*) : "${BACKENDS_QEMU:=10.0}" "${BACKENDS_RING:=packed}" ;;
	*) : "${BACKENDS_QEMU:=system}" "${BACKENDS_RING:=split}" ;;
	esac
	: "${BACKENDS_RELAY:=shadow}"
	TAP_PREFIX+="QEMU $BACKENDS_QEMU, $BACKENDS_RING, $BACKENDS_RELAY: "
	qemu_use "$BACKENDS_QEMU"
	MODERN=disable-legacy=on
	[ "$BACKENDS_RING" = split ] || MODERN+=,packed=on
	OPTIONS=()
	STREAM=$VM_DIR/stream
	gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -static -o "$STREAM" "$ROOT/tests/vm/stream.c" ||
		die "stream.c does not build"
	# shellcheck disable=SC2034 # for vm_start
	VM_FILES="$STREAM stream"
	vsock_add
	rng_add
	scsi_add
	# shellcheck disable=SC2046
	vm_run $(all_memory_shared) "${OPTIONS[@]}" ||
		tail -n 5 "$VM_DIR"/relay-*.log "$VM_DIR/backend.log" 2>/dev/null | sed "s/^/# /"
	[ "$BACKENDS_RELAY" = direct ] ||
		tap_check "nothing was refused" not grep -h refused "$VM_DIR"/relay-*.log
}

not() { ! "$@"; }

# device_add NAME SOCKET COMMAND...: start it and its relay, and have the guest's device connect there as chardev NAME.
device_add() {
	local name=$1 socket=$2
	shift 2
	START[$name]="$(printf '%q ' "$socket" "$@")"
	backend_start "$socket" "$@"
	BACKEND[$name]=$BACKEND_PID
	if [ "$BACKENDS_RELAY" = shadow ]; then
		shadow_start "$VM_DIR/relay-$name" "$socket" --keep
		mv "$VM_DIR/relay.log" "$VM_DIR/relay-$name.log"
		RELAY[$name]=$RELAY_PID
		socket=$VM_DIR/relay-$name
	fi
	OPTIONS+=(-chardev "socket,id=$name,path=$socket")
}

# built NAME DEVICE: sets PROGRAM to where that program is; fails if it is nowhere.
built() {
	PROGRAM=${VHOST_DEVICES:-}/$1
	[ -n "${VHOST_DEVICES:-}" ] && [ -x "$PROGRAM" ] && return
	SKIP[$2]="Debian has no $1: VHOST_DEVICES=FOLDER says where there is one"
	return 1
}

vsock_add() {
	local dir lib
	dir=$(suite_get sid vhost-device-vsock vhost-device-vsock libc6 libgcc-s1) || {
		SKIP[vsock]="Debian's sid does not give away vhost-device-vsock"
		return
	}
	lib=$dir/usr/lib/x86_64-linux-gnu
	device_add vsock "$VM_DIR/vsock" "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \
		"$dir/usr/bin/vhost-device-vsock" --guest-cid 3 --socket "$VM_DIR/vsock" --uds-path "$VM_DIR/host"
	OPTIONS+=(-device "vhost-user-vsock-pci,chardev=vsock,addr=05.0${MODERN#disable-legacy=on}")
	head -c 4000000 /dev/urandom >"$VM_DIR/payload"
}

rng_add() {
	built vhost-device-rng rng || return
	# It appends a number to the name of its socket.
	device_add rng "$VM_DIR/rng0" "$PROGRAM" --socket-path "$VM_DIR/rng"
	OPTIONS+=(-device "vhost-user-rng-pci,chardev=rng,addr=06.0${MODERN#disable-legacy=on}")
}

scsi_add() {
	built vhost-device-scsi scsi || return
	disk_create "$VM_DIR/scsi-disk" 16M
	device_add scsi "$VM_DIR/scsi" "$PROGRAM" --socket-path "$VM_DIR/scsi" "$VM_DIR/scsi-disk"
	OPTIONS+=(-device "vhost-user-scsi-pci,chardev=scsi,num_queues=1,addr=07.0,$MODERN")
}

# What the guest asks for.

host_mode() { echo "$BACKENDS_RELAY"; }

# host_skip NAME: why that device is not there.
host_skip() { echo "${SKIP[$1]:--}"; }

# host_listen BYTES: be there for one connection by vsock to port 2000.
host_listen() {
	local n=100
	rm -f "$VM_DIR/host_2000"
	"$STREAM" listen "unix:$VM_DIR/host_2000" "$1" <"$VM_DIR/payload" >"$VM_DIR/received" &
	STREAM_PID=$!
	until [ -S "$VM_DIR/host_2000" ] || [ $((n -= 1)) -eq 0 ]; do
		sleep 0.05
	done
}

# host_received: the checksum of what came, when all has.
host_received() {
	wait "$STREAM_PID" && md5sum <"$VM_DIR/received" | cut -d' ' -f1
}

host_payload() { md5sum <"$VM_DIR/payload" | cut -d' ' -f1; }

# host_connect BYTES: connect to the guest's port 2001, send the payload, get as many; the answer is what came.
host_connect() {
	local n=20
	# The guest may not be listening yet.
	until timeout 60 "$STREAM" connect "unix:$VM_DIR/host" "$1" "CONNECT 2001" <"$VM_DIR/payload" \
		>"$VM_DIR/answered" 2>"$VM_DIR/stream.log"; do
		[ $((n -= 1)) -gt 0 ] || break
		sleep 0.1
	done
	sed 1d "$VM_DIR/answered" | md5sum | cut -d' ' -f1
}

# host_audit NAME: what its backend reaches of the guest.
host_audit() {
	"$SLUICE" audit --backend "${BACKEND[$1]}" --vmm "$VM_PID" >"$VM_DIR/audit" 2>&1
	local status=$?
	grep '^reachable:' "$VM_DIR/audit" || tail -n 1 "$VM_DIR/audit"
	return $status
}

# host_restart NAME: kill -9 its backend and start it anew.
host_restart() {
	local p others=()
	peer_kill "${BACKEND[$1]}"
	for p in "${PEERS[@]}"; do
		[ "$p" = "${BACKEND[$1]}" ] || others+=("$p")
	done
	PEERS=("${others[@]}")
	eval "backend_start ${START[$1]}"
	BACKEND[$1]=$BACKEND_PID
}
