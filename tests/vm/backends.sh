# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# backends.sh - host half: backends of devices that are neither disk nor file system, behind mode shadow
#
# Theory of operation: as matrix.sh, with other devices: each has a stock backend, a relay of its own and a row of checks in
# the guest, and goes by the same code of the relay as a disk does.
#
#	vsock	vhost-device-vsock, which Debian has in sid only
#	net	Open vSwitch with DPDK: a bridge of the guest's port and a tap device, in a network namespace where that is
#		all there is. It needs no huge pages, but root.
#	rng	vhost-device-rng, and
#	scsi	vhost-device-scsi: no package; where VHOST_DEVICES names a folder that has the program
#
# What is not there is skipped, and the reason said. Run by hand and by tests/vm/matrix, and not by ./run test: sid
# changes under our hands.
#
#	BACKENDS_QEMU	system | 10.0
#	BACKENDS_RING	split | packed
#	BACKENDS_RELAY	shadow | direct (to tell a backend's fault from the relay's)

declare -A BACKEND START SKIP

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
	net_add
	rng_add
	scsi_add
	vm_run_shared "${OPTIONS[@]}"
	[ "$BACKENDS_RELAY" = direct ] ||
		tap_check "nothing was refused" not grep -h refused "$VM_DIR"/relay-*.log
}

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
		socket=$VM_DIR/relay-$name
	fi
	OPTIONS+=(-chardev "socket,id=$name,path=$socket")
}

# net_add: a bridge by Open vSwitch, with a web server beside it.
net_add() {
	local dir dpdk arch=x86_64-linux-gnu
	[ "$(id -u)" -eq 0 ] || {
		SKIP[net]="a network namespace with a tap device: root may"
		return
	}
	[ "$BACKENDS_QEMU" != system ] || {
		SKIP[net]="QEMU 7.2 ends with a segmentation fault at Open vSwitch, without a relay as well"
		return
	}
	# shellcheck disable=SC2086 # a list of names
	dir=$(suite_get bookworm ovs $PKG_OVS $PKG_TESTPMD) || exit 1
	unshare -n sleep infinity &
	HOLDER=$!
	PEERS+=("$HOLDER")
	OVS=$dir
	# In this folder no driver of DPDK's has a file of its name.
	INSIDE=(nsenter "--net=/proc/$HOLDER/ns/net" env -C / "OVS_RUNDIR=$VM_DIR/ovs" "OVS_DBDIR=$VM_DIR/ovs" "OVS_LOGDIR=$VM_DIR/ovs"
		"OVS_SYSCONFDIR=$VM_DIR/ovs" "OVS_PKGDATADIR=$dir/usr/share/openvswitch" "XDG_RUNTIME_DIR=$VM_DIR/ovs")
	LOADER=("$dir/lib/$arch/ld-linux-x86-64.so.2" --library-path "$dir/usr/lib/$arch:$dir/lib/$arch")
	mkdir "$VM_DIR/ovs"
	ovs usr/bin/ovsdb-tool create "$VM_DIR/ovs/db" "$dir/usr/share/openvswitch/vswitch.ovsschema" ||
		die "Open vSwitch's database cannot be made: $(tail -n 1 "$VM_DIR/ovs.log")"
	backend_start "$VM_DIR/ovs/db.sock" "${INSIDE[@]}" "${LOADER[@]}" "$dir/usr/sbin/ovsdb-server" \
		"--remote=punix:$VM_DIR/ovs/db.sock" --no-chdir "$VM_DIR/ovs/db"
	# Its thread that polls sleeps where there is nothing to do, for 200 us at most: this is no race.
	dpdk="--no-huge --legacy-mem -m 256 --no-pci --no-telemetry --file-prefix sluice-$$ -d librte_mempool_ring.so.23"
	if ! ovs_vsctl --no-wait init -- set Open_vSwitch . other_config:dpdk-init=true other_config:pmd-maxsleep=200 \
		other_config:per-port-memory=true "other_config:dpdk-extra=\"$dpdk\"" ||
		! ovs_vsctl --no-wait add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 guest \
			-- set Interface guest type=dpdkvhostuser; then
		die "ovs-vsctl failed: $(tail -n 1 "$VM_DIR/ovs.log")"
	fi
	device_add net "$VM_DIR/ovs/guest" "${INSIDE[@]}" "${LOADER[@]}" \
		"$dir/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk" "unix:$VM_DIR/ovs/db.sock" --no-chdir
	OPTIONS+=(-netdev "vhost-user,id=net,chardev=net" -device "virtio-net-pci,netdev=net,romfile=,addr=08.0,$MODERN")
	mkfifo "$VM_DIR/silence"
	mkdir "$VM_DIR/www"
	head -c 5000000 /dev/urandom >"$VM_DIR/www/file"
	"${INSIDE[@]}" busybox httpd -f -p 8080 -h "$VM_DIR/www" >>"$VM_DIR/ovs.log" 2>&1 &
	PEERS+=($!)
}

# ovs PROGRAM [ARG]...
ovs() {
	local program=$OVS/$1
	shift
	"${INSIDE[@]}" "${LOADER[@]}" "$program" "$@" >>"$VM_DIR/ovs.log" 2>&1
}

ovs_vsctl() { ovs usr/bin/ovs-vsctl "--db=unix:$VM_DIR/ovs/db.sock" --timeout=30 "$@"; }

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
	# QEMU takes param_change for negotiated though this backend does not offer it; the backend, and the relay, then
	# end the connection.
	device_add scsi "$VM_DIR/scsi" "$PROGRAM" --socket-path "$VM_DIR/scsi" "$VM_DIR/scsi-disk"
	OPTIONS+=(-device "vhost-user-scsi-pci,chardev=scsi,num_queues=1,param_change=off,addr=07.0,$MODERN")
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

# host_net_up: give the bridge its address; a new Open vSwitch has a new bridge.
host_net_up() {
	local n=100
	until "${INSIDE[@]}" ip link set br0 up >>"$VM_DIR/ovs.log" 2>&1 || [ $((n -= 1)) -eq 0 ]; do
		sleep 0.1
	done
	"${INSIDE[@]}" ip addr replace 10.9.0.1/24 dev br0 || tail -n 1 "$VM_DIR/backend.log"
}

# host_net_listen: keep what comes to port 9. An end of its input would have it end the connection.
host_net_listen() {
	"${INSIDE[@]}" timeout 60 busybox nc -l -p 9 >"$VM_DIR/received" <>"$VM_DIR/silence" &
	STREAM_PID=$!
}

host_file_sum() { md5sum <"$VM_DIR/$1" | cut -d' ' -f1; }

# host_audit NAME: what its backend reaches of the guest.
host_audit() { audit_says "${BACKEND[$1]}"; }

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
