# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# survey.guest.sh - a recording says what the device says, and observing changes nothing
#
# Theory of operation: 05.0 is a disk that stays bound while mode=observe comes and goes. A
# recording of fio is held against what fio asked for and what the disk's own statistics counted;
# then the same disk is confined, and the recording against the module's counters.
# shellcheck source=guest/lib.sh
. /test/lib.sh
DISK=0000:00:05.0
OBSERVED=/sys/kernel/debug/sluice/observe

refuses "observe: not with a pool" "sluice:.*no use for a pool" sluice mode=observe devices=all
refuses "observe: devices have to be named" "sluice:.*devices" insmod /test/sluice.ko mode=observe
refuses "bounce: not with devices=all" "sluice:.*all" sluice devices=all
refuses "record: without the module it says what to do" "load sluice.ko" \
	/test/sluice survey record -o /tmp/none
refuses "stat: without the module it says what to do" "is sluice.ko loaded" /test/sluice stat
echo 0 >/proc/sys/kernel/ftrace_enabled
refuses "observe: not while ftrace is off" "sluice:.*ftrace_enabled" \
	insmod /test/sluice.ko mode=observe devices=all
echo 1 >/proc/sys/kernel/ftrace_enabled
check "the disk's driver is bound first" load virtio_pci virtio_blk
check "observe: loads beside a bound driver" insmod /test/sluice.ko mode=observe devices=all
check "observe: no device is taken" [ ! -e "$STATS/$DISK" ]
check "stat says that nothing is confined" sh -c "/test/sluice stat | grep 'nothing is confined'"

# served: what the disk says it has done, as requests and bytes, of both kinds.
served() { awk '{ print $1 + $5, 512 * ($3 + $7) }' /sys/block/vda/stat; }
# record OUT RW: fio under the recorder, 512 requests of 8 KiB; sets REQUESTS and BYTES, what the
# disk says it did meanwhile.
record() {
	local out="$1" rw="$2"
	# shellcheck disable=SC2046 # two numbers
	set -- $(served)
	check "recorded: $rw" /test/sluice survey record -o "$out" --title "$rw" -- \
		fio --name=j --filename=/dev/vda --ioengine=libaio --direct=1 --thread "--rw=$rw" \
		--bs=8k --iodepth=8 --size=4m --norandommap --randrepeat=0
	cp /tmp/check.out /tmp/record.out
	# shellcheck disable=SC2046 # two numbers
	set -- "$@" $(served)
	REQUESTS=$(($3 - $1))
	BYTES=$(($4 - $2))
	check "nothing is lost: $rw" grep ' 0 lost' /tmp/record.out
	check "512 requests were made: $rw" [ $REQUESTS -ge 512 ]
}

# of FILE WHAT: a figure of the recording's, for the disk: maps, or bytes by direction.
of() { /test/sluice survey report --rows counts "$1" | sed -n "s/^$DISK .*\b$2 \([0-9]*\).*/\1/p"; }

record /tmp/read randread
# Besides the data the device writes a byte of status for each request.
check "the disk's own statistics say the same: bytes read" \
	[ "$(of /tmp/read from)" = $((BYTES + REQUESTS)) ]
check "each request has a header, data and a status" [ "$(of /tmp/read maps)" -ge $((3 * REQUESTS)) ]
check "all of it goes both ways" sh -c "/test/sluice survey report /tmp/read | grep '0 still mapped'"

check "observe: unloads under a bound driver" rmmod sluice
check "and leaves nothing" [ ! -e "$OBSERVED" ]
check "the disk works as before" fio_verify /dev/vda
check "observe: loads again, for one device" insmod /test/sluice.ko mode=observe "devices=$DISK"
record /tmp/write randwrite
# And towards it, a header of 16 bytes and the tables of descriptors.
check "the disk's own statistics say the same: bytes written" \
	[ "$(of /tmp/write to)" -ge $((BYTES + 16 * REQUESTS)) ]
check "of what is written it writes the status alone" [ "$(of /tmp/write from)" = "$REQUESTS" ]
check "observe: unloads again" rmmod sluice
host same vda "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]

# Confined: what the device wrote is known, and the module's counters say the same.
v=$(ls -d /sys/bus/pci/devices/$DISK/virtio*)
echo "${v##*/}" >/sys/bus/virtio/drivers/virtio_blk/unbind
check "confined" sluice "devices=$DISK"
echo "${v##*/}" >/sys/bus/virtio/drivers/virtio_blk/bind
maps=$(stat_of $DISK maps)
record /tmp/bounce randread
check "the module counted as many mappings" \
	[ "$(of /tmp/bounce maps)" = $(($(stat_of $DISK maps) - maps)) ]
check "reads of random bytes are seen to be written whole" \
	sh -c "/test/sluice survey report /tmp/bounce | grep -E 'last changed byte (9[5-9]|100)'"
# With buffers far too small, and nobody who reads them meanwhile, events are lost, and every one of them is counted: what was recorded
# and what was not are together what the module did.
done_by() { echo $(($(stat_of $DISK maps) + $(stat_of $DISK unmaps))); }
before=$(done_by)
# shellcheck disable=SC2016 # for that shell
check "recorded with buffers too small" /test/sluice survey record --buffer 8 -o /tmp/lossy -- \
	sh -c 'kill -STOP $PPID
		fio --name=j --filename=/dev/vda --ioengine=libaio --direct=1 --thread --rw=randread \
			--bs=64k --iodepth=32 --size=16m --loops=4
		kill -CONT $PPID'
after=$(done_by)
events=$(sed -n 's/.*: \([0-9]*\) events.*/\1/p' /tmp/check.out)
lost=$(sed -n 's/.* \([0-9]*\) lost.*/\1/p' /tmp/check.out)
echo "# with 8 KiB: $events recorded, $lost lost, $((after - before)) in all" >&8
check "events are lost" [ "$lost" -gt 0 ]
check "and all of them are counted" [ $((events + lost)) = $((after - before)) ]
check "and the report says so" sh -c "/test/sluice survey report /tmp/lossy | grep '^$lost of'"
check "stat shows the device" sh -c "/test/sluice stat | grep '^$DISK.*confined'"
check "stat --json has the counter" sh -c "/test/sluice stat --json | grep -o '\"maps\":[0-9]*'"
