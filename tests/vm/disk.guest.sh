# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# disk.guest.sh - a stock backend's disk: with Sluice (part sluice) and as it is done today (today)
#
# Theory of operation: both parts do the same work and end with the same comparison of the disk on
# both sides; they differ in what the backend can reach, which the host audits while fio runs.
# shellcheck source=guest/lib.sh
. /test/lib.sh

[ "$PART" = today ] || check "the module loads before the drivers" sluice devices=virtio
check "the disk appears" load virtio_pci virtio_blk

host same disk "$(md5 /dev/vda)"
check "read: same bytes as the host has" [ "$REPLY" = same ]

# The audit runs while requests do: a backend's reach is that of a busy one.
fio_verify /dev/vda --time_based --runtime=60 >/tmp/busy 2>&1 &
busy=$!
sleep 1
host_check "audit while busy" audit "$PART"
killall fio
wait $busy

check "fio verifies 4 KiB random writes" fio_verify /dev/vda
check "fio verifies 1 MiB writes" fio_verify /dev/vda --rw=write --bs=1m --iodepth=4
check "fio verifies odd sizes, two queued jobs" fio_verify /dev/vda --bsrange=512-256k \
	--bs_unaligned=0 --blockalign=512 --iodepth=32

check "mkfs.ext4" mkfs.ext4 -q -F /dev/vda
check "mount" mount -t ext4 /dev/vda /mnt
for n in 1 2 3 4; do
	head -c 1000000 /dev/urandom >/mnt/$n
done
cp -r /test /mnt/copy
before=$(cat /mnt/[1-4] | md5sum)
umount /mnt
check "fsck.ext4 after writing" fsck.ext4 -f -n /dev/vda
check "mount again" mount -t ext4 /dev/vda /mnt
check "files read back" [ "$(cat /mnt/[1-4] | md5sum)" = "$before" ]
umount /mnt
host same disk "$(md5 /dev/vda)"
check "write: the host has the same bytes" [ "$REPLY" = same ]

[ "$PART" = today ] && return
check "the disk's traffic went through the pool" bounced 0000:00:05.0
check "nothing was refused" [ "$(stat_of 0000:00:05.0 refused)" = 0 ]

# The relay is out of the data path: it does not even run, and so makes no system call.
requests() {
	fio --name=count --filename=/dev/vda --ioengine=libaio --direct=1 --thread --rw=randread \
		--bs=4k --iodepth=4 --size=8m
}
host watch
requests
host watched
check "the relay did not run during 2048 requests" [ "$REPLY" = 0 ]
if host trace; then
	requests
	host traced
	check "the relay made no system call in 2048 requests" [ "$REPLY" = 0 ]
else
	skip "the relay made no system call in 2048 requests" "$REPLY"
fi
host alive
check "backend and relay are alive" [ "$REPLY" = yes ]
