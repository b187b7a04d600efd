# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# disks.guest.sh - what a pool takes for what is live, and 20 disks on one that is far too small
#
# Theory of operation: first the large pool, 8 MiB at first and up to 64 (04.0): the guest starts, four disks
# are kept busy, and what the pool has in use is held against what is mapped. Live bytes are what has been
# laid down at maps less what has been scrubbed at unmaps (a disk never syncs, which is checked: a
# sync would count too), and coherent memory. The figures stand in several files, so a sample is the
# pool's between two readings of all devices, and counts only if nothing was mapped or unmapped in
# between; so that there is such a moment, the disks are slowed down to a crawl over and over again,
# with their queues full. Size classes in use are counted too low rather than too high: one for each
# power of two.
#
# Then the small pool, 4 MiB at 03.0, and 20 disks that ask for more than three times that at once.
# (The seed of 2023 was written because swiotlb hung here.) No request may fail or be lost, no disk
# may be left behind, and the kernel has nothing to complain of.
# shellcheck source=guest/lib.sh
. /test/lib.sh

DISKS="a b c d e f g h i j k l m n o p q r s t"
pool_of() { sed -n "s/^pool_$1 //p" $STATS/pool; }
# total NAME: a figure of all devices together.
total() { cat $STATS/0000*/stats | awk -v name="$1" '$1 == name { n += $2 } END { print n + 0 }'; }
note() { echo "# $*" >&8; }

# load_disks OUT LETTERS OPTION...: fio on all of them at once, random writes that are read back.
load_disks() {
	local out="$1" disk
	shift
	for disk in $1; do
		set -- "$@" "--name=vd$disk" "--filename=/dev/vd$disk"
	done
	shift
	fio --ioengine=libaio --direct=1 --thread --rw=randwrite --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --randrepeat=0 --output-format=terse "$@" >"$out" 2>&1
}

# sample: print "live in-use cached" of a moment at which nothing changed, or fail.
sample() {
	cat $STATS/0000*/stats $STATS/pool $STATS/0000*/stats | awk '
		$1 == "maps" || $1 == "unmaps" { count[after + 0] += $2 }
		$1 == "pool_used" { used = $2 }
		$1 == "pool_cached" { cached = $2; used_then = used; after = 1 }
		after { next }
		$1 == "bytes_to" || $1 == "coherent" { live += $2 }
		$1 == "scrubbed" { live -= $2 }
		END {
			if (count[0] != count[1])
				exit 1
			print live, used_then + cached, cached
		}'
}

# classes: how many different lengths there have been, as powers of two; up to 256 bytes are one.
classes() {
	cat $STATS/0000*/histogram | awk '
		$2 > 0 { seen[$1 <= 256 ? 256 : $1] = 1 }
		END { for (i in seen) n++; print n }'
}

check "the module loads before the drivers" sluice devices=virtio size=8M
check "20 disks appear" load virtio_pci virtio_blk
wait_for 10 [ -b /dev/vdt ]
start=$(pool_of used) # what is handed out, without what caches keep
note "after boot: $start bytes in use, $(total coherent) of them coherent"

# A few at least of the samples have to be of a busy pool. A machine that is busy itself takes few: once more, then.
busy() { [ "$(awk '$1 >= 4194304' /tmp/samples | wc -l)" -ge 3 ]; }
: >/tmp/samples
for _ in 1 2 3 4 5; do
	load_disks /tmp/four "a b c d" --iodepth=64 --size=4m \
		--bssplit=4k/40:16k/20:64k/20:128k/10:256k/10 &
	fio=$!
	while kill -0 $fio 2>/dev/null; do
		host throttle 10
		for n in 1 2 3 4 5 6; do
			sample >>/tmp/samples && break
		done
		host throttle 300
		usleep 200000
	done
	wait $fio
	verified=$?
	if [ "$verified" != 0 ] || busy; then
		break
	fi
done
if [ "$verified" = 0 ]; then
	ok "four busy disks verify"
else
	not_ok "four busy disks verify" "$(tail -n 3 /tmp/four)"
fi
host throttle 1000000
check "no sync has been counted" [ "$(total syncs)" = 0 ]
check "the pool's use was seen while 4 MiB and more were live" busy
classes=$(classes)
within() {
	awk '{ live = $1; used = $2 }
		used > 1.25 * live + classes * 2097152 { print live " live, " used " in use"; bad = 1 }
		END { exit bad }' "classes=$classes" /tmp/samples
}
sparing() {
	awk '{ live = $1; used = $2 - $3 }
		used > 1.25 * live { print live " live, " used " handed out"; bad = 1 }
		END { exit bad }' /tmp/samples
}
check "handed out are at most 1.25 times the live bytes" sparing
check "in use are at most 1.25 times the live bytes and 2 MiB for each class" within
sort -n /tmp/samples | awk '
	{ live[NR] = $1; used[NR] = $2; cached[NR] = $3 }
	END { print NR " samples; least, median, most live:"
		split("1 " int((NR + 1) / 2) " " NR, at, " ")
		for (i = 1; i <= 3; i++)
			printf "%d live, %d in use of which %d cached\n", live[at[i]], used[at[i]], cached[at[i]] }' |
	while read -r line; do
		note "$line"
	done
note "$classes classes, used_max $(pool_of used_max), grown by $(pool_of grown) chunks"
back() {
	[ $(($(pool_of used) + $(pool_of cached))) -le $((start + start / 10)) ] &&
		[ "$(pool_of bytes)" = "$(pool_of start)" ]
}
check "the pool grew under the load" [ "$(pool_of grown)" -gt 0 ]
check "30 s after the load the pool's use is what it was, and so is its size" wait_for 30 back
note "after the load: $(pool_of used) in use, $(pool_of cached) cached, $(pool_of slabs) in slabs"

modprobe -r virtio_blk
check "the pool is free without drivers" rmmod sluice
check "the module loads onto 4 MiB" sluice devices=virtio pool=bar:0000:00:03.0/2
check "20 disks appear again" load virtio_blk
wait_for 10 [ -b /dev/vdt ]
host throttle 50 # until the pool is full, however slow the guest is
load_disks /tmp/twenty "$DISKS" --iodepth=16 --size=2m --bssplit=4k/70:128k/30 &
fio=$!
full() { [ "$(pool_of full)" -gt 0 ]; }
check "the pool is full" wait_for 30 full
host throttle 2000
check "20 disks at once verify" wait $fio
# Fields of fio's terse format 3: 3 name, 5 error, 6 KiB read, 9 ms, 47 KiB written, 50 ms.
whole() {
	cut -d';' -f3,5,6,9,47,50 /tmp/twenty
	[ "$(awk -F';' '$1 == 3 && $5 == 0 && $6 == 2048 && $47 == 2048' /tmp/twenty | wc -l)" = 20 ]
}
check "each disk has done its whole job" whole
note "$(awk -F';' '$1 == 3 { print $9 + $50 }' /tmp/twenty | sort -n |
	sed -n '1s/$/ ms took the first disk,/p; $s/$/ ms the last/p' | tr '\n' ' ')"
note "$(pool_of full) times full, used_max $(pool_of used_max) of $(pool_of bytes)"
make_all() {
	local disk jobs=""
	for disk in $DISKS; do
		mkfs.ext4 -q -F "/dev/vd$disk" &
		jobs="$jobs $!"
	done
	for disk in $jobs; do
		wait "$disk" || return 1
	done
}
host throttle 1000000
check "mkfs.ext4 on 20 disks at once" make_all
check_all() {
	local disk
	for disk in $DISKS; do
		fsck.ext4 -f -n "/dev/vd$disk" || return 1
	done
}
check "fsck.ext4 of each" check_all
for n in 0 19; do
	host same_disk $n "$(md5 "/dev/vd$(echo "$DISKS" | cut -d' ' -f$((n + 1)))")"
	check "the host has the same bytes of disk $n" [ "$REPLY" = same ]
done
check "nothing was refused" [ "$(total refused)$(pool_of refused)" = 00 ]
check "nothing is left" wait_for 10 [ "$(pool_of used)" = "$(total coherent)" ]
