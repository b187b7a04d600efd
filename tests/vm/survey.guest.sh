# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# survey.guest.sh - a recording says what the device says, and observing changes nothing
#
# Theory of operation: 05.0 is a disk that stays bound while mode=observe comes and goes. A recording
# of fio is held against what fio asked for and what the disk's own statistics counted; then the same
# disk is confined, and the recording against the module's counters.
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
check "the disk's driver is bound first" load virtio_pci virtio_blk
check "observe: loads beside a bound driver" insmod /test/sluice.ko mode=observe devices=all
check "observe: no device is taken" [ ! -e "$STATS/$DISK" ]
check "stat says that nothing is confined" sh -c "/test/sluice stat | grep 'nothing is confined'"

# record OUT RW OPTION...: fio under the recorder, 512 requests of 8 KiB; sets BEFORE and AFTER, the
# disk's sectors read and written.
record() {
	local out="$1" rw="$2"
	BEFORE=$(awk '{ print $3 + $7 }' /sys/block/vda/stat)
	check "recorded: $rw" /test/sluice survey record -o "$out" --title "$rw" -- \
		fio --name=j --filename=/dev/vda --ioengine=libaio --direct=1 --thread "--rw=$rw" \
		--bs=8k --iodepth=8 --size=4m --norandommap --randrepeat=0
	AFTER=$(awk '{ print $3 + $7 }' /sys/block/vda/stat)
	check "nothing is lost" grep ' 0 lost' /tmp/check.out
}

# of FILE WHAT: the figure in a report's line for the disk
of() { /test/sluice survey report "$1" | sed -n "/^$DISK/,/->/p" | sed -n "$2"; }

record /tmp/read randread
# A sector is 512 bytes; data are all that is longer than a header or a descriptor table.
/test/sluice survey report --rows sizes /tmp/read >/tmp/rows
check "the disk's statistics and the recording agree" \
	[ "$(of /tmp/read 's/.*, \([0-9]*\) of 8 KiB.*/\1/p')" = "$(((AFTER - BEFORE) / 16))" ]
check "512 requests, each a header, data and a status" \
	[ "$(of /tmp/read 's/^  mappings *\([0-9]*\),.*/\1/p')" -ge 1536 ]
check "all of it goes both ways" sh -c "/test/sluice survey report /tmp/read | grep '0 still mapped'"

check "observe: unloads under a bound driver" rmmod sluice
check "and leaves nothing" [ ! -e "$OBSERVED" ]
check "the disk works as before" fio_verify /dev/vda
check "observe: loads again, for one device" insmod /test/sluice.ko mode=observe "devices=$DISK"
record /tmp/write randwrite
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
	[ "$(of /tmp/bounce 's/^  mappings *\([0-9]*\),.*/\1/p')" = "$(($(stat_of $DISK maps) - maps))" ]
check "reads of random bytes are seen to be written whole" \
	sh -c "/test/sluice survey report /tmp/bounce | grep -E 'last changed byte (9[5-9]|100)'"
check "stat shows the device" sh -c "/test/sluice stat | grep '^$DISK.*confined'"
check "stat --json has the counter" sh -c "/test/sluice stat --json | grep -o '\"maps\":[0-9]*'"
