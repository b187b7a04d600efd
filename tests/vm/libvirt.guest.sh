# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# libvirt.guest.sh - lives through what libvirt does with a domain, and verifies its disk
#
# Theory of operation: the parts are boots of one domain, see libvirt.sh. fio writes and reads back the disk, in rounds, while
# its backend and its relay are killed, and the guest is saved to a file and restored; it ends at the first byte that differs.
# shellcheck source=guest/lib.sh
. /test/lib.sh

# verify_start; verify_stop: succeeds if nothing was wrong. verifies: another round's worth of requests has been done.
verify_start() {
	fio_verify /dev/vda --loops=100000 --size=4m --bsrange=4k-64k --blockalign=4k \
		--thinktime=50ms --thinktime_blocks=64 >/tmp/verify 2>&1 &
	VERIFY=$!
}
verify_stop() {
	killall fio
	wait "$VERIFY"
	grep 'err= 0' /tmp/verify
}
reads() { awk '{ print $1 }' /sys/block/vda/stat; }
has_read() { kill -0 "$VERIFY" && [ "$(reads)" -ge "$1" ]; }
verifies() { check "disk: fio verifies $1" wait_for 60 has_read $(($(reads) + 150)); }

same() {
	host same "$1" "$(md5 "/dev/$2")"
	check "disk: the host has the same bytes $3" [ "$REPLY" = same ]
}

network() {
	host no_net
	if [ "$REPLY" != - ]; then
		skip "net: passt" "$REPLY"
		return
	fi
	if load virtio_net && [ ! -e /tmp/net ]; then
		ip addr add 169.254.2.1/16 dev eth0
		ip link set eth0 up
		touch /tmp/net
	fi
	check "net: a file arrives $1" wait_for 20 wget -q -O /tmp/file http://169.254.2.2:8080/file
	host file_sum www/file
	check "net: and is the same $1" [ "$REPLY" = "$(md5 /tmp/file)" ]
}

# button: have /tmp/button say whether it has been pressed.
button() {
	load button evdev
	for event in /dev/input/event*; do
		cat "$event" >>/tmp/button &
	done
	sleep 1
}

check "disk: it appears ($PART)" load virtio_pci virtio_blk
[ "$PART" = moved ] || same disk vda "($PART)"
case $PART in
first)
	verify_start
	host_check "audit while busy" audit disk
	verifies "($PART)"
	for who in backend relay; do
		host kill_$who disk
		sleep 1
		host start_$who disk
		verifies "after its $who was killed"
	done
	host suspend
	check "the guest is suspended and resumed" [ "$REPLY" != "${REPLY%resumed}" ]
	verifies "after that"

	for round in 1 2; do
		host plug attach disk2 vdb
		check "disk: another one comes ($round; $REPLY)" wait_for 10 [ -b /dev/vdb ]
		check "disk: fio verifies it ($round)" fio_verify /dev/vdb --size=4m
		same disk2 vdb "of it ($round)"
		host plug detach disk2 vdb
		check "disk: it goes ($round; $REPLY)" wait_for 10 [ ! -e /dev/vdb ]
	done
	check "disk: fio has found nothing wrong ($PART)" verify_stop

	check "fs: it mounts" sh -c 'modprobe virtiofs && mount -t virtiofs share /mnt'
	host file_sum fs/read
	check "fs: a file of the host's" [ "$REPLY" = "$(md5 /mnt/read)" ]
	head -c 8000000 /dev/urandom >/mnt/written
	host file_sum fs/written
	check "fs: the host reads what was written" [ "$REPLY" = "$(md5 /mnt/written)" ]
	if host save; then
		not_ok "libvirt saves no guest with a file system" "it did: then docs/OPERATING.md is to be changed"
	else
		ok "libvirt saves no guest with a file system ($REPLY)"
	fi
	umount /mnt
	network "($PART)"
	same disk vda "at the end"

	button
	host shutdown
	check "its power button is pressed" wait_for 10 [ -s /tmp/button ]
	;;
next)
	network "($PART)"
	verify_start
	verifies "($PART)"
	host save
	check "the guest is saved and restored ($REPLY)" [ "$REPLY" = saved ]
	verifies "after that"
	network "after that"
	host destroy
	sleep 100
	;;
last)
	verify_start
	verifies "($PART)"
	check "disk: fio has found nothing wrong ($PART)" verify_stop
	same disk vda "at the very end"
	;;
moved)
	button
	verify_start
	verifies "($PART)"
	echo "host move" >&8 # no answer
	check "its power button is pressed where it has been moved to" wait_for 60 [ -s /tmp/button ]
	verifies "there"
	check "disk: fio has found nothing wrong ($PART)" verify_stop
	echo "host moved $(md5 /dev/vda)" >&8
	;;
esac
