# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# guest.sh - the demo's guest: a secret in memory, and real work on the disk
#
# Theory of operation: 32 random bytes are put into memory half a million times, in a file of a
# tmpfs; they go to the host in hex over the serial line and never to the disk. Then the disk is
# written and verified by fio, measured, and given a file system. The audit happens while fio runs.
# shellcheck source=../vm/guest/lib.sh
. /test/lib.sh
BDF=0000:00:05.0

if [ "$PART" = sluice ]; then
	sluice devices=virtio || host fail "sluice.ko could not be loaded"
fi
load virtio_pci virtio_blk || host fail "no disk"

secret=$(head -c 32 /dev/urandom | xxd -p -c 32)
echo "$secret" | xxd -r -p >/tmp/secret
while [ "$(wc -c </tmp/secret)" -lt 16777216 ]; do
	cat /tmp/secret /tmp/secret >/tmp/more
	mv /tmp/more /tmp/secret
done
host secret "$secret"

# measure NAME OPTION...: print IOPS and KiB/s (fields of fio's terse form, read or write).
measure() {
	fio --name=m --filename=/dev/vda --ioengine=libaio --direct=1 --thread --time_based \
		--runtime=2 --randrepeat=0 --output-format=terse "$@" |
		awk -F';' '{ print $8 + $49, int(($7 + $48) / 1024) }'
}
measure --rw=randread --bs=4k --iodepth=16 >/tmp/randread &
measuring=$!
sleep 1
host audit
wait $measuring
# The audit took its share of that run: measure again, undisturbed.
for rw in randread randwrite; do
	measure --rw=$rw --bs=4k --iodepth=16 >/tmp/$rw
	host got $rw "$(cut -d' ' -f1 /tmp/$rw)"
done
for rw in read write; do
	measure --rw=$rw --bs=128k --iodepth=4 >/tmp/$rw
	host got $rw "$(cut -d' ' -f2 /tmp/$rw)"
done

fio_verify /dev/vda --bsrange=4k-256k --blockalign=4k && host got verify yes

worked() {
	mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt || return 1
	for n in 1 2 3 4; do
		head -c 1000000 /dev/urandom >/mnt/$n
	done
	sums=$(md5sum /mnt/*)
	umount /mnt && fsck.ext4 -f -n /dev/vda && mount -t ext4 /dev/vda /mnt || return 1
	[ "$(md5sum /mnt/*)" = "$sums" ] || return 1
	umount /mnt
}
worked && host got fs yes
host disk_md5 "$(md5 /dev/vda)"

if [ "$PART" = sluice ]; then
	cat $STATS/$BDF/stats
	to=$(stat_of $BDF bytes_to) from=$(stat_of $BDF bytes_from)
	host got copied "$((to >> 20)) MiB out, $((from >> 20)) MiB back"
	host got pool "$(stat_of $BDF maps) mappings, $(($(stat_of $BDF pool_used_max) >> 10)) KiB at once"
fi
# The secret has to have been in memory all the time.
[ "$(head -c 32 /tmp/secret | xxd -p -c 32)" = "$secret" ] || host fail "the secret is gone"
