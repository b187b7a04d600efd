# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2086 # lists of options
#
# testpmd.sh - DPDK's testpmd on both sides of the relay: net_virtio_user in front, net_vhost behind
#
# Theory of operation: each of the two forwards between its end of the socket and files of packets
# (net_pcap), in both directions at once. What comes out of one has to be, packet by packet and in
# order, what went into the other. Nothing may be dropped: testpmd tries again when a ring is full.
# Each stream has a thread of its own, since two that wait in one for room would wait for each other.
#
# No huge pages: with --no-huge all of testpmd's memory is one memfd. Its drivers are loaded by
# name, because it refuses files below a folder that all may write, as one under /tmp is.

# testpmd_get: set TESTPMD to where it is.
testpmd_get() {
	TESTPMD=$(suite_get bookworm dpdk $PKG_TESTPMD)
}

# packets_create N FILE: so many packets of 60 to 1514 random bytes (libpcap's format, little-endian).
packets_create() {
	local i len size
	{
		printf '\xd4\xc3\xb2\xa1\2\0\4\0\0\0\0\0\0\0\0\0\xff\xff\0\0\1\0\0\0'
		for ((i = 0; i < $1; i++)); do
			len=$((60 + i * 37 % 1455))
			printf -v size '\\x%02x\\x%02x\\0\\0' $((len & 255)) $((len >> 8))
			printf '\0\0\0\0\0\0\0\0%b%b' "$size" "$size"
			head -c $len /dev/urandom
		done
	} >"$2"
}

# packets_of FILE: a line for each, without the time at which it was written down.
packets_of() {
	od -An -v -tu1 -w1 "$1" | awk '
		NR <= 24 { next }
		++i <= 16 { if (i == 9) left = $1; else if (i == 10) left += 256 * $1; next }
		{ printf "%d ", $1 }
		!--left { print ""; i = 0 }'
}

# testpmd_start NAME QUEUES DRIVER DEVICE: it forwards from NAME.in.Q to the device and from there to
# NAME.out.Q at once. Sets TESTPMD_PID.
testpmd_start() {
	local q files="" cpus lcores pipe
	# Its threads, each on any processor that this one may have.
	cpus=$(taskset -cp $$ | sed 's/.*: //')
	lcores="0@($cpus)"
	for ((q = 0; q < $2; q++)); do
		files+=,rx_pcap=$VM_DIR/$1.in.$q,tx_pcap=$VM_DIR/$1.out.$q
		lcores+=",$((2 * q + 1))@($cpus),$((2 * q + 2))@($cpus)"
	done
	mkfifo "$VM_DIR/$1.commands"
	exec {pipe}<>"$VM_DIR/$1.commands"
	# In this folder no driver has a file of its name.
	(cd / && exec env XDG_RUNTIME_DIR="$VM_DIR" \
		"$TESTPMD/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" \
		--library-path "$TESTPMD/usr/lib/x86_64-linux-gnu:$TESTPMD/lib/x86_64-linux-gnu" \
		"$TESTPMD/usr/bin/dpdk-testpmd" --no-huge -m 128 --no-pci --no-telemetry \
		--file-prefix "sluice-$$-$1" --lcores "$lcores" -d librte_mempool_ring.so.23 \
		-d librte_net_pcap.so.23 -d "$3" --vdev "net_pcap0$files" --vdev "$4" -- \
		-i --total-num-mbufs=4096 --no-flush-rx --nb-cores=$((2 * $2)) --rxq=$2 --txq=$2 \
		<&"$pipe" >"$VM_DIR/$1.log" 2>&1) &
	TESTPMD_PID=$!
	PEERS+=("$TESTPMD_PID")
	printf 'set fwd io retry\nset burst tx delay 100 retry 1000000\nstart\n' >&"$pipe"
	exec {pipe}>&-
}

# testpmd_done BYTES FILE...: wait until all of that is written; no longer than some seconds without a byte.
testpmd_done() {
	local bytes=0 before=-1 still=0 want=$1
	shift
	while [ $((still += 1)) -lt 100 ]; do
		bytes=$(cat "$@" 2>/dev/null | wc -c)
		[ "$bytes" -lt "$want" ] || return 0
		[ "$bytes" -eq $before ] || before=$bytes still=0
		sleep 0.1
	done
	return 1
}

# testpmd_checks QUEUES OPTIONS: one pair of them, as TAP lines. OPTIONS: of net_virtio_user.
testpmd_checks() {
	local n=500 name q rc=0 what="testpmd: $1 queue(s)${2//,/, }:"
	local outs=() ins=()
	VM_DIR=$(mktemp -d)
	trap peers_stop EXIT # they never sleep
	for name in front back; do
		for ((q = 0; q < $1; q++)); do
			packets_create $n "$VM_DIR/$name.in.$q"
			ins+=("$VM_DIR/$name.in.$q") outs+=("$VM_DIR/$name.out.$q")
		done
	done
	testpmd_start back "$1" librte_net_vhost.so.23 "net_vhost0,iface=$VM_DIR/vhost,queues=$1"
	for q in 1 2 3 4 5 6; do
		wait_socket "$TESTPMD_PID" "$VM_DIR/vhost" && break
	done
	[ -S "$VM_DIR/vhost" ] ||
		die "testpmd did not start: $(tail -n 3 "$VM_DIR/back.log")"
	shadow_start "$VM_DIR/relay" "$VM_DIR/vhost" --keep --stats "$VM_DIR/stats"
	testpmd_start front "$1" librte_net_virtio.so.23 \
		"net_virtio_user0,path=$VM_DIR/relay,queues=$1$2"
	testpmd_done "$(cat "${ins[@]}" | wc -c)" "${outs[@]}" ||
		tail -n 5 "$VM_DIR"/{front,back,relay}.log | sed 's/^/# /'
	tap_check "$what from front to back all $n packets arrive, in order" \
		testpmd_same front back "$1" || rc=1
	tap_check "$what from back to front" testpmd_same back front "$1" || rc=1
	tap_check "$what each went through the relay" \
		[ "$(relay_stat sluice_relay_requests_total)" -ge $((2 * n * $1)) ] || rc=1
	tap_check "$what nothing was refused" not grep refused "$VM_DIR/relay.log" || rc=1
	peers_stop
	rm -rf "$VM_DIR"
	return $rc
}

# testpmd_same FROM TO QUEUES
testpmd_same() {
	local q
	for ((q = 0; q < $3; q++)); do
		cmp <(packets_of "$VM_DIR/$1.in.$q") <(packets_of "$VM_DIR/$2.out.$q") || return 1
	done
}
