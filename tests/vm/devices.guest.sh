# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# devices.guest.sh - QEMU's built-in virtio devices, all confined at once by devices=virtio
#
# Theory of operation: each device moves real data, is checked at the other end (md5, or what the
# device is for), and then has to show in the statistics that it went through the pool.
# shellcheck source=guest/lib.sh
. /test/lib.sh

# through DEVICE BDF: the device's traffic bounced, and none was refused.
through() {
	check "$1: went through the pool" bounced "$2"
	check "$1: nothing was refused" [ "$(stat_of "$2" refused)" = 0 ]
}

check "the module loads before the drivers" sluice devices=virtio
check "the drivers load" load virtio_pci virtio_blk virtio_net virtio_scsi sd_mod virtio-rng \
	virtio_console virtio_balloon 9pnet_virtio 9p
check "disk: fio verifies" fio_verify /dev/vda
check "disk: 1 MiB requests" fio_verify /dev/vda --rw=write --bs=1m --iodepth=4
host same vda "$(md5 /dev/vda)"
check "disk: the host has the same bytes" [ "$REPLY" = same ]
through disk 0000:00:05.0

# 6.12 has virtio_console built in, so it was bound first: it is not touched then, and the reason is
# said; it is confined when bound anew.
console=$(ls -d /sys/bus/pci/devices/0000:00:09.0/virtio*)
console=${console##*/}
if grep -q '^confined 0' "$STATS/0000:00:09.0/stats"; then
	check "serial: bound before, and so refused with the reason" \
		sh -c "dmesg | grep '0000:00:09.0.*NOT confined: a driver is bound'"
	echo "$console" >/sys/bus/virtio/drivers/virtio_console/unbind
	echo "$console" >/sys/bus/virtio/drivers/virtio_console/bind
fi

# The network: one way, the other way, and small packets both ways.
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
nc 10.0.2.100 1 </dev/null >/tmp/down
host md5 payload
check "net: 4 MiB received" [ "$(md5 /tmp/down)" = "$REPLY" ]
head -c 4194304 /dev/urandom >/tmp/up
nc 10.0.2.100 2 </tmp/up
host received "$(md5 /tmp/up)"
check "net: 4 MiB sent" [ "$REPLY" = same ]
check "net: 200 small packets each way" ping -q -A -c 200 -s 100 10.0.2.2
through net 0000:00:06.0

wait_for 10 [ -b /dev/sda ]
check "scsi: fio verifies" fio_verify /dev/sda
host same sda "$(md5 /dev/sda)"
check "scsi: the host has the same bytes" [ "$REPLY" = same ]
through scsi 0000:00:07.0

dd if=/dev/hwrng of=/tmp/rng bs=1k count=16 iflag=fullblock 2>/dev/null
check "rng: gives 16 KiB" [ "$(wc -c </tmp/rng)" = 16384 ]
# Random bytes do not compress; constant or repeated ones do.
check "rng: they are not constant" [ "$(gzip -c /tmp/rng | wc -c)" -gt 16000 ]
through rng 0000:00:08.0

# The port that is no console has the name that the host gave it; hvc0 is the console, and takes
# no more at once than a tty buffers.
port=/dev/$(grep -lx line /sys/class/virtio-ports/*/name | cut -d/ -f5)
round_trip() {
	head -c "$2" /dev/urandom >/tmp/message
	exec 7<>"$1"
	stty raw -echo <&7 2>/dev/null # fails on the port, which is no tty
	cat /tmp/message >&7 &
	timeout 20 head -c "$2" <&7 >/tmp/back
	wait
	exec 7>&-
	cmp /tmp/message /tmp/back
}
check "serial: 256 KiB there and back" round_trip "$port" 262144
check "console: 2 KB there and back" round_trip /dev/hvc0 2000
through serial 0000:00:09.0

# A balloon hands over pages by their physical addresses, so Linux's driver declines
# VIRTIO_F_ACCESS_PLATFORM, and QEMU then refuses the device: it is not used, rather than used
# unconfined.
check "balloon: refused, not left unconfined" \
	sh -c "dmesg | grep 'virtio_balloon.*device refuses features'"
host balloon 448
check "balloon: takes nothing" [ "$REPLY" = 512 ]

check "9p: mounts" mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt
host md5 payload
check "9p: a file of the host" [ "$(md5 /mnt/payload)" = "$REPLY" ]
cp /tmp/up /mnt/from-guest
sync
host md5 from-guest
check "9p: a file of the guest" [ "$(md5 /tmp/up)" = "$REPLY" ]
through 9p 0000:00:0b.0
