# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2034 # what is set is for those who source this
#
# peers.sh - what stands around a guest: a pool, disks, a stock backend, the relay
#
# Theory of operation: each function starts one process or prints QEMU options. Processes are
# noted in PEERS and ended by peers_stop, by their id. The pool is a file of its own in /dev/shm,
# because a file can be told from QEMU's other memory by its inode; the guest sees it as BAR 2 of
# an ivshmem-plain device at 0000:00:04.0.

PEERS=()
SLUICE=${SLUICE:-$ROOT/build/sluice}

# pool_create NAME SIZE: sets POOL_FILE; pool_options prints QEMU's options for it.
pool_create() {
	POOL_FILE=/dev/shm/sluice-$$-$1
	rm -f "$POOL_FILE"
	POOL_SIZE=$2
	truncate -s "$2" "$POOL_FILE"
	PEERS_FILES+=("$POOL_FILE")
}
PEERS_FILES=()

pool_options() {
	echo "-object memory-backend-file,id=pool,mem-path=$POOL_FILE,size=$POOL_SIZE,share=on" \
		"-device ivshmem-plain,memdev=pool,addr=04.0"
}

# disk_create FILE SIZE: random contents, so that a read of the wrong place shows.
disk_create() {
	head -c "$(numfmt --from=iec "$2")" /dev/urandom >"$1"
}

# wait_socket PID SOCKET: until PID listens there; half a minute, as three guests may start beside it.
wait_socket() {
	local n=600
	until [ -S "$2" ]; do
		if ! alive "$1" || [ $((n -= 1)) -eq 0 ]; then return 1; fi
		sleep 0.05
	done
}

# A backend needs no capability, and with CAP_SYS_PTRACE it would reach all memory in another way.
UNPRIVILEGED=
[ "$(id -u)" -ne 0 ] || UNPRIVILEGED="setpriv --bounding-set=-all --inh-caps=-all"

# What a disk has of them, at QEMU and at qemu-storage-daemon.
DISK_QUEUES=1

# qsd_start IMAGE SOCKET [BLOCKDEV]: stock qemu-storage-daemon; sets QSD_PID.
qsd_start() {
	rm -f "$2"
	# shellcheck disable=SC2086 # a command, or nothing
	$UNPRIVILEGED qemu-storage-daemon --blockdev "${3:-driver=file,node-name=file,filename=$1}" \
		--blockdev driver=raw,node-name=disk,file=file --export \
		"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=$2,writable=on,num-queues=$DISK_QUEUES" \
		>>"$VM_DIR/qsd.log" 2>&1 </dev/null &
	QSD_PID=$!
	PEERS+=("$QSD_PID")
	wait_socket "$QSD_PID" "$2" || die "qemu-storage-daemon did not start:" \
		"$(tail -n 3 "$VM_DIR/qsd.log")"
}

# shadow_start FRONT BACK [OPTION]...: a relay that holds all of the guest's memory; sets RELAY_PID.
shadow_start() {
	local front=$1 back=$2
	shift 2
	rm -f "$front"
	"$SLUICE" relay --listen "$front" --backend "$back" --mode shadow "$@" \
		>>"$VM_DIR/relay.log" 2>&1 </dev/null &
	RELAY_PID=$!
	PEERS+=("$RELAY_PID")
	wait_socket "$RELAY_PID" "$front" || die "sluice relay did not start:" \
		"$(tail -n 3 "$VM_DIR/relay.log")"
}

# vm_run_shared OPTION...: a guest whose memory is all shared; if it fails, with the ends of what relays and backends have said.
vm_run_shared() {
	# shellcheck disable=SC2046 # options
	vm_run $(all_memory_shared) "$@" ||
		tail -n 5 "$VM_DIR"/relay-*.log "$VM_DIR/backend.log" 2>/dev/null | sed "s/^/# /"
}

# audit_says BACKEND [OPTION]...: what that process reaches of the guest, in a line; with sluice audit's status.
audit_says() {
	local backend=$1 status
	shift
	"$SLUICE" audit --backend "$backend" --vmm "$VM_PID" "$@" >"$VM_DIR/audit" 2>&1
	status=$?
	grep '^reachable:' "$VM_DIR/audit" || tail -n 1 "$VM_DIR/audit"
	return $status
}

# relay_start FRONT BACK [OPTION]...: sets RELAY_PID. Shares POOL_FILE and nothing else.
relay_start() {
	local front=$1 back=$2
	shift 2
	rm -f "$front"
	"$SLUICE" relay --listen "$front" --backend "$back" --mode filter --share "$POOL_FILE" \
		"$@" >>"$VM_DIR/relay.log" 2>&1 </dev/null &
	RELAY_PID=$!
	PEERS+=("$RELAY_PID")
	wait_socket "$RELAY_PID" "$front" || die "sluice relay did not start:" \
		"$(tail -n 3 "$VM_DIR/relay.log")"
}

# backend_start SOCKET COMMAND...: any other stock backend; sets BACKEND_PID.
backend_start() {
	local socket=$1
	shift
	rm -f "$socket"
	"$@" >>"$VM_DIR/backend.log" 2>&1 </dev/null &
	BACKEND_PID=$!
	PEERS+=("$BACKEND_PID")
	wait_socket "$BACKEND_PID" "$socket" || die "$1 did not start: $(tail -n 3 "$VM_DIR/backend.log")"
}

# qemu_use 10.0|system: with which QEMU guests boot from now on.
qemu_use() {
	local dir
	VM_QEMU=(qemu-system-x86_64)
	[ "$1" != system ] || return 0
	dir=$(suite_get bookworm-backports qemu qemu-system-x86 qemu-system-common qemu-system-data) ||
		exit 1
	VM_QEMU=("$dir/usr/bin/qemu-system-x86_64" -L "$dir/usr/share/qemu" -L /usr/share/seabios
		-L /usr/share/qemu)
}

# all_memory_shared: QEMU's options for a guest whose memory its vhost-user device is given.
all_memory_shared() {
	echo "-machine memory-backend=ram" \
		"-object memory-backend-memfd,id=ram,share=on,size=${VM_MEMORY}M"
}

# relay_stat NAME: a figure from the statistics of the relay started with --stats $VM_DIR/stats,
# summed over its labels.
relay_stat() {
	curl -sS --max-time 5 --unix-socket "$VM_DIR/stats" http://relay/metrics |
		awk -v n="$1" '$1 == n || index($1, n "{") == 1 { s += $2; n_seen = 1 }
			END { if (n_seen) print s; exit !n_seen }'
}

alive() { kill -0 "$1" 2>/dev/null; }

# peer_kill PID: at once, and gone when this returns.
peer_kill() {
	kill -9 "$1" 2>/dev/null
	wait "$1" 2>/dev/null
}

peers_stop() {
	local p
	for p in "${PEERS[@]}"; do
		peer_kill "$p"
	done
	PEERS=()
	rm -f "${PEERS_FILES[@]}"
	PEERS_FILES=()
}

# vhost_disk SOCKET [OPTIONS]: QEMU's options for a disk served there.
vhost_disk() {
	echo "-chardev socket,id=disk,path=$1${3:-}" \
		"-device vhost-user-blk-pci,chardev=disk,num-queues=$DISK_QUEUES,addr=05.0${2:-}"
}

# What most tests' guests ask for.
# host_same FILE MD5: whether a file of the test has that checksum.
host_same() {
	if [ "$(md5sum <"$VM_DIR/$1")" = "$2  -" ]; then echo same; else echo different; fi
}
# host_alive: whether all the test's backends and relays are.
host_alive() {
	local p
	for p in "${PEERS[@]}"; do
		if ! alive "$p"; then
			echo "process $p is gone"
			return
		fi
	done
	echo yes
}
