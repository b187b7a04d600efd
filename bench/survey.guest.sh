# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# survey.guest.sh - the survey's guest: each load recorded, its data checked
#
# Theory of operation: PART says whether the module looks on (observe) or confines (bounce); the
# loads are the same, in work.sh, each run by the recorder. It fails if a load's data are not what
# they should be, or if the recorder lost any event (which it counts, and which is then no full
# record).
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

ALL=0000:00:05.0,0000:00:06.0,0000:00:07.0,0000:00:08.0,0000:00:09.0,0000:00:0b.0,0000:00:0c.0,0000:00:0e.0,0000:00:0f.0,0000:00:10.0
case $PART in
bounce) set -- "devices=$ALL" ;;
*) set -- mode=observe devices=all ;;
esac

# recorded FILE TITLE: run that load under the recorder and hand the stream to the host.
recorded() {
	local file="$1" title="$2"
	check "$title" /test/sluice survey record --buffer 8192 -o "/tmp/$file.sv" --title "$title" -- \
		sh -u /test/work.sh "$file"
	grep -q ' 0 lost' /tmp/check.out || not_ok "$title: nothing is lost" "$(tail -n 1 /tmp/check.out)"
}

cost() {
	load virtio_pci virtio_blk
	host rounds
	for _ in $(seq "$REPLY"); do
		for job in 4k-randread-qd16 128k-read-qd4; do
			for way in plain observe bounce bounce-recorded; do
				sh -u /test/work.sh cost "$job" "$way" || not_ok "cost of $way" "see the console"
			done
		done
	done
}

if [ "$PART" = cost ]; then
	cost
else
	if [ "$PART" = observe ]; then insmod /test/sluice.ko "$@"; else sluice "$@"; fi
	recorded start "start"
	recorded blk-fio "fio"
	recorded blk-fs "file-system work"
	recorded blk-pkg "package installation"
	recorded scsi-fio "fio"
	recorded nvme-fio "fio"
	for net in net e1000e; do
		recorded $net-rr "request-response"
		recorded $net-in "bulk in"
		recorded $net-out "bulk out"
		recorded $net-small "small packets"
	done
	recorded 9p "file-system work"
	recorded rng "16 KiB of random bytes"
	recorded console "round trips"
	recorded gpu "drawing"
	[ "$PART" = bounce ] || recorded balloon "64 MiB in and out"
	[ -e /mnt/9/payload ] || mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt/9
	cp /tmp/*.sv /mnt/9/ && sync
	for f in /tmp/*.sv; do host keep "${f##*/}"; done
fi
