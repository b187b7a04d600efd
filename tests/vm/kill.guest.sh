# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# kill.guest.sh - fio verifies while backend and relay are killed and come back
# shellcheck source=guest/lib.sh
. /test/lib.sh
load virtio_pci virtio_blk
host same disk "$(md5 /dev/vda)"
check "the disk appears" [ "$REPLY" = same ]
host queues
queues=$REPLY
set -- /sys/block/vda/mq/*
check "it has $queues queues" [ $# -eq "$queues" ]
host rounds
rounds=$REPLY

# Verify over and over until told to end, each on a processor and so a queue of its own; the status is that of the
# first that failed.
half() {
	while [ ! -e /tmp/enough ]; do
		fio_verify /dev/vda --offset="$(($1 * 6))m" --size=6m --cpus_allowed="$1" --iodepth=8 \
			--bsrange=4k-64k --blockalign=4k >"/tmp/fio$1" 2>&1 || return 1
	done
}
verifier() {
	half 1 &
	half 0 && wait $!
}
verifier &
verifier=$!
sleep 1
n=0
while [ $n -lt "$rounds" ]; do
	n=$((n + 1))
	for who in backend relay; do
		host kill_$who
		sleep 1
		host start_$who
		sleep 2
		kill -0 $verifier || break 2
	done
done
touch /tmp/enough
if wait $verifier; then
	ok "fio verified while backend and relay were killed $rounds times each"
else
	not_ok "fio verified while backend and relay were killed" "$(tail -n 3 /tmp/fio0 /tmp/fio1)"
fi
host same disk "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]
