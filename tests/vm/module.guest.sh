# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# module.guest.sh - sluice.ko is refused, loaded, kept, unloaded, and runs out of memory
#
# Theory of operation: two disks of QEMU's own (05.0, 06.0), which also work unconfined, and pools
# of 16 MiB (04.0), 4 MiB (03.0) and 1 MiB (02.0).
# shellcheck source=guest/lib.sh
. /test/lib.sh
A=0000:00:05.0
B=0000:00:06.0

# Every refusal says in the kernel's log what is wrong.
refuses "no pool named" "sluice:.*pool" insmod /test/sluice.ko devices=virtio
refuses "pool: not of the form" "sluice:.*nonsense" sluice devices=virtio pool=nonsense
refuses "pool: no such function" "sluice:.*1e\.0" sluice devices=virtio pool=bar:0000:00:1e.0/2
refuses "pool: no such BAR" "sluice:.*BAR" sluice devices=virtio pool=bar:0000:00:04.0/3
refuses "pool: a BAR number that is none" "sluice:" sluice devices=virtio pool=bar:0000:00:04.0/9
refuses "pool: too small" "sluice:.*(small|MiB)" sluice devices=virtio pool=bar:0000:00:02.0/2
refuses "devices: none named" "sluice:.*devices" sluice
refuses "devices: not of the form" "sluice:.*nonsense" sluice devices=nonsense
refuses "mode: unknown" "sluice:.*mode" sluice devices=virtio mode=fast
check "nothing is left behind" sh -c '! grep -q ^sluice /proc/modules'

check "a list of devices" sluice "devices=$A,$B"
check "the disks appear" load virtio_pci virtio_blk
fio_verify /dev/vda >/tmp/vda &
one=$!
fio_verify /dev/vdb >/tmp/vdb
two=$?
wait $one
check "two disks on one pool verify at once" [ $?$two = 00 ]
check "the first bounced" bounced $A
check "the second bounced" bounced $B

refuses "unload in use is refused" "" rmmod sluice
check "and the disk still works" fio_verify /dev/vda --size=1m

for d in /sys/bus/virtio/drivers/virtio_blk/virtio*; do
	echo "${d##*/}" >/sys/bus/virtio/drivers/virtio_blk/unbind
done
[ -e /sys/module/virtio_pci/refcnt ] && for f in $A $B; do
	echo "$f" >/sys/bus/pci/drivers/virtio-pci/unbind
done
check "unload when nothing uses it" rmmod sluice
for f in $A $B; do
	[ -e /sys/bus/pci/devices/"$f"/driver ] || echo "$f" >/sys/bus/pci/drivers/virtio-pci/bind
done
for d in /sys/bus/virtio/devices/virtio*; do
	[ "$(cat "$d/device")" != 0x0002 ] || [ -e "$d/driver" ] ||
		echo "${d##*/}" >/sys/bus/virtio/drivers/virtio_blk/bind
done
check "the disk works without it" fio_verify /dev/vda
host same vda "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]
