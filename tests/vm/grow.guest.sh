# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# grow.guest.sh - the pool grows under load, stops at pool_max, and shrinks when it is quiet
#
# Theory of operation: four disks with deep queues want 32 MiB at once. First the pool starts with 8
# of 64 MiB, and one disk stays busy with short requests while the others come and go, so that
# chunks are added and taken out from among live mappings. Then it may not have more than 8 MiB, and
# the same load has to make do with that. (8 MiB, because a pool keeps three chunks free anyhow.)
# shellcheck source=guest/lib.sh
. /test/lib.sh

START=8388608
RESERVE=1376256 # a disk's: 1.25 MiB + 64 KiB
pool_of() { sed -n "s/^pool_$1 //p" $STATS/pool; }
note() { echo "# $*" >&8; }

refuses "size: not of the form" "sluice:.*size=lots" sluice devices=virtio size=lots
refuses "size: no multiple of a chunk" "sluice:.*size=3M" sluice devices=virtio size=3M
refuses "size: more than the BAR" "sluice:.*128 MiB.*64" sluice devices=virtio size=128M
refuses "pool_max: less than size" "sluice:.*16 MiB.*8" sluice devices=virtio size=16M pool_max=8M
refuses "pool_max: not of the form" "sluice:.*pool_max=0" sluice devices=virtio pool_max=0
refuses "quiet: not at all" "sluice:.*quiet=0" sluice devices=virtio quiet=0

# flood: fill the queues of three disks, see to it that the pool noticed by the command, let them go.
flood() {
	local fio done=0
	host throttle 20
	fio --ioengine=libaio --direct=1 --thread --rw=randwrite --bs=256k --iodepth=64 --size=8m \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0 \
		--name=b --filename=/dev/vdb --name=c --filename=/dev/vdc --name=d --filename=/dev/vdd &
	fio=$!
	wait_for 20 "$@" || done=1
	host throttle 1000000
	wait $fio && [ $done = 0 ]
}
larger() { [ "$(pool_of bytes)" -ge 20971520 ]; }
small() { [ "$(pool_of bytes)" = "$(pool_of start)" ]; }

check "it starts with size" sluice devices=virtio size=8M quiet=1
check "the disks appear" load virtio_pci virtio_blk
wait_for 10 [ -b /dev/vdd ]
check "each disk has a reserve" [ "$(pool_of reserved)" = $((4 * RESERVE)) ]
check "the pool has its first size, and three chunks more for the reserves" \
	[ "$(pool_of bytes) $(pool_of start)" = "$((START + 6291456)) $((START + 6291456))" ]
first=$(pool_of grown)
fio_verify /dev/vda --time_based --runtime=60 --iodepth=4 >/tmp/busy 2>&1 &
busy=$!
for n in 1 2; do
	check "it grows under load, and the disks verify ($n)" flood larger
	note "grown by $(pool_of grown) chunks, shrunk by $(pool_of shrunk), $(pool_of full) times full," \
		"used_max $(pool_of used_max)"
	check "it is small again when it is quiet ($n)" wait_for 30 small
done
check "one disk was busy all the time" kill -0 $busy
killall fio
wait $busy
check "that one verifies, too" sh -c "! grep -E 'verify.*(fail|bad)|error=' /tmp/busy"
check "what was added has been taken out" [ $(($(pool_of grown) - first)) = "$(pool_of shrunk)" ]
check "nothing was refused" [ "$(pool_of refused)" = 0 ]

# Reserves go with their drivers, and the chunks that came for them.
bare() { [ "$(pool_of bytes) $(pool_of start) $(pool_of reserved)" = "$START $START 0" ]; }
functions() {
	local n
	for n in 5 6 7 8; do
		echo "0000:00:0$n.0" >/sys/bus/pci/drivers/virtio-pci/"$1" || return 1
	done
}
functions unbind
check "without drivers it has its first size" wait_for 30 bare
functions bind
wait_for 10 [ -b /dev/vdd ]
check "with them it has the chunks for their reserves again" small

# Gone while it is large.
check "it grows once more" flood larger
modprobe -r virtio_blk
check "it can be unloaded when it has grown" rmmod sluice

check "pool_max bounds it" sluice devices=virtio size=4M pool_max=8M quiet=1
check "the disks appear again" load virtio_blk
wait_for 10 [ -b /dev/vdd ]
check "no reserve, as one would be more than an eighth" [ "$(pool_of reserved)" = 0 ]
full() { [ "$(pool_of full)" -gt 0 ] && [ "$(pool_of bytes)" = $START ]; }
check "a load that wants more than pool_max verifies" flood full
check "pool_max says how far it could" [ "$(pool_of max)" = $START ]
check "no more chunks came" [ "$(pool_of grown)" -le 2 ]
