# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# hotplug.guest.sh - verifies its disks while memory and other disks come and go
#
# Theory of operation: fio writes and reads back both disks, in rounds, and ends at the first byte that differs. It
# verifies through something that happens if it is still there afterwards and has read some 150 blocks of each disk
# since, which is more than a round of its own. What programs ask for comes from a movable zone first, and what the kernel
# itself does from a normal one, and this guest has neither but in memory that is plugged in: so the buffers of a fio that is
# started then, and the rings of disks that come then, lie there.
# shellcheck source=guest/lib.sh
. /test/lib.sh
MEMORY=/sys/devices/system/memory
BLOCKS="--bsrange=4k-64k --blockalign=4k"

# verify_start LOG; verify_stop LOG: succeeds if nothing was wrong. Pauses leave something of the processor to others.
verify_start() {
	# shellcheck disable=SC2086 # options
	fio_verify /dev/vda:/dev/vdb --loops=100000 --size=4m $BLOCKS \
		--thinktime=50ms --thinktime_blocks=64 >"$1" 2>&1 &
	VERIFY=$!
}
verify_stop() {
	killall fio
	wait $VERIFY
	grep 'err= 0' "$1"
}
# stat DISK FIELD: 1 the reads that it has done, 9 the requests that it has now.
stat() { awk -v field="$2" '{ print $field }' "/sys/block/$1/stat"; }
has_read() { kill -0 $VERIFY && [ "$(stat vda 1)" -ge "$1" ] && [ "$(stat vdb 1)" -ge "$2" ]; }
verifies() {
	check "fio verifies $1" wait_for 60 has_read $(($(stat vda 1) + 150)) $(($(stat vdb 1) + 150))
}
busy() { [ "$(stat "$1" 9)" -gt 0 ]; }

# memory_plug NAME STATE: sets BLOCK.
memory_plug() {
	ls $MEMORY >/tmp/blocks
	host plug_memory "$1"
	check "memory comes, $2 ($REPLY)" wait_for 10 memory_came
	echo "$2" >"$MEMORY/$BLOCK/state"
	check "it is online ($BLOCK)" grep -q online "$MEMORY/$BLOCK/state"
}
# shellcheck disable=SC2010 # the kernel names them
memory_came() { BLOCK=$(ls $MEMORY | grep -vxFf /tmp/blocks); }

# hold DISK: keep what the host has put at 7 MiB there in a buffer, for it to find.
hold() {
	# shellcheck disable=SC2216 # that is what it is for
	dd if="/dev/$1" bs=1M skip=7 count=1 iflag=direct 2>/dev/null | sleep 1000 &
}

audit() {
	local mode
	for mode in filter shadow; do
		host_check "audit of mode $mode $1" audit $mode
	done
}

# disk_at ADDRESS: its name, if there is one.
disk_at() { ls "/sys/bus/pci/devices/0000:00:$1/"virtio*/block; }

check "sluice.ko is there first" sluice devices=virtio
check "the disks appear" load virtio_pci virtio_blk
echo offline >$MEMORY/auto_online_blocks # one kernel does this by itself, another does not

verify_start /tmp/verify-1
memory_plug first online_movable
verifies "while it comes"
check "fio has found nothing wrong" verify_stop /tmp/verify-1
verify_start /tmp/verify-2
hold vda
hold vdb
for mode in filter shadow; do
	check "what is read by mode $mode goes there" wait_for 10 host finds $mode
done
verifies "with buffers in it"
audit "with that memory"
host unplug_memory first
check "it is unplugged while it is used ($REPLY)" [ ! -e "$MEMORY/$BLOCK" ]
verifies "without it"
audit "without it"

memory_plug second online_kernel
for round in 1 2 3; do
	host plug_disk filter-2 07.0 && host plug_disk shadow-2 08.0
	check "two disks come ($round)" [ -z "$REPLY" ]
	disks=
	for disk in filter-2:07.0 shadow-2:08.0; do
		name=${disk%:*}
		wait_for 10 disk_at "${disk#*:}"
		disk=$(disk_at "${disk#*:}")
		disks=${disks:+$disks:}/dev/$disk
		dd if=/dev/urandom of="/dev/$disk" bs=256k seek="$round" count=1 oflag=direct 2>/dev/null
		host same "$name" "$(md5 "/dev/$disk")"
		check "the host has the same bytes of $name ($round)" [ "$REPLY" = same ]
	done
	host ring_inside shadow-2
	check "by mode shadow its ring is in that memory ($REPLY)" [ "${REPLY#inside}" != "$REPLY" ]
	case $round in
	1)
		# shellcheck disable=SC2086 # options
		check "fio verifies what has come" fio_verify "$disks" --size=4m $BLOCKS
		;;
	2)
		fio_verify "$disks" --size=4m --loops=100000 >/tmp/busy 2>&1 &
		check "they are busy when they go" wait_for 10 busy "${disks##*/}"
		;;
	esac
	host unplug_disk filter-2 && host unplug_disk shadow-2
	check "they are unplugged ($round)" sh -c "! ls -d /sys/bus/pci/devices/0000:00:0[78].0"
done
verifies "to the end"
check "fio has found nothing wrong to the end" verify_stop /tmp/verify-2
for disk in filter:vda shadow:vdb; do
	host same "${disk%:*}" "$(md5 "/dev/${disk#*:}")"
	check "the host has the same bytes of ${disk%:*}" [ "$REPLY" = same ]
done
host alive
check "all backends and relays are alive" [ "$REPLY" = yes ]
