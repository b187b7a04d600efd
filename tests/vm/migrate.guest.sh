# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# migrate.guest.sh - verifies a disk without a pause while this guest is moved
# shellcheck source=guest/lib.sh
. /test/lib.sh
load virtio_pci virtio_blk
check "the disk appears" [ -b /dev/vda ]
# The last 4 MB, which nobody writes, through the page cache. What is there stays: somebody always has the disk
# open, and fio does not tell the kernel to forget all of it.
exec 9</dev/vda
tail_sum() { dd if=/dev/vda bs=1M skip=12 2>/dev/null | md5sum | cut -d' ' -f1; }
verifier() {
	while [ ! -e /tmp/enough ]; do
		fio_verify /dev/vda --size=12m --iodepth=16 --bsrange=4k-64k --blockalign=4k \
			--invalidate=0 >/tmp/fio 2>&1 || return 1
	done
}
verifier &
verifier=$!
# So many large reads that all of what the device writes cannot be copied at once: it keeps the migration from
# ending before all has been copied and it is held open. The reads that matter need not wait behind these.
fio --name=read --filename=/dev/vda --ioengine=libaio --direct=1 --thread --rw=randread --bs=1m \
	--size=12m --iodepth=24 --time_based --runtime=1000 >/tmp/read 2>&1 &
reader=$!
sleep 1
host copy
kill $reader
check "its memory is copied ($REPLY)" [ "$REPLY" = copied ]
read=$(tail_sum)
host move
check "it moves ($REPLY)" [ "$REPLY" = moved ]
host tail_sum
check "what it read from the disk meanwhile came with it" \
	[ "$REPLY $read" = "$(tail_sum) $REPLY" ]
touch /tmp/enough
if wait $verifier; then
	ok "fio verified before, while and after"
else
	not_ok "fio verified before, while and after" "$(tail -n 3 /tmp/fio)"
fi
echo 3 >/proc/sys/vm/drop_caches
host same disk "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]
for side in from to; do
	host requests $side
	check "requests went through the relay $side ($REPLY)" [ "$REPLY" -gt 10 ]
done
