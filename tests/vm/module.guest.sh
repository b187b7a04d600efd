# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# module.guest.sh - sluice.ko is refused, loaded, kept, unloaded, and runs out of memory
#
# Theory of operation: two disks of QEMU's own (05.0, 06.0), which also work unconfined, a device
# without VIRTIO_F_ACCESS_PLATFORM (07.0), and pools of 16 MiB (04.0), 4 MiB (03.0) and 1 MiB (02.0).
# shellcheck source=guest/lib.sh
. /test/lib.sh
A=0000:00:05.0
B=0000:00:06.0
C=0000:00:07.0

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

# drivers bind|unbind: of both disks at once, and of the third device.
drivers() {
	local d driver
	for d in /sys/bus/virtio/devices/virtio*; do
		case $(cat "$d/device") in
		0x0002) driver=virtio_blk ;;
		0x0004) driver=virtio_rng ;;
		esac
		echo "${d##*/}" >"/sys/bus/virtio/drivers/$driver/$1" || return 1
	done
}

# both OPTION...: fio verifies on both disks at the same time.
both() {
	local other one
	fio_verify /dev/vda "$@" >/tmp/vda 2>&1 &
	other=$!
	fio_verify /dev/vdb "$@" || one=failed
	wait $other || one=failed
	[ -z "${one:-}" ] || tail -n 3 /tmp/vda
	[ -z "${one:-}" ]
}
says() { grep -q "^$2\$" "$STATS/$1/stats"; }

check "a list of devices" sluice "devices=$A,$B"
check "the disks appear" load virtio_pci virtio_blk virtio-rng
check "two disks on one pool verify at once" both
check "the first bounced" bounced $A
check "the second bounced" bounced $B

refuses "unload in use is refused" "" rmmod sluice
check "and the disk still works" fio_verify /dev/vda --size=1m

drivers unbind
check "unload when nothing uses it" rmmod sluice
drivers bind
check "the disks work without it" both
host same vda "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]

# Now the drivers are there first, and one of the devices cannot be confined at all.
unconfined() { dmesg | grep -c "sluice: NOT confined"; }
before=$(unconfined)
check "loads onto a 4 MiB pool with drivers bound" \
	sluice "devices=$A,$B,$C" pool=bar:0000:00:03.0/2
check "the reason is in the log, for each device" [ "$(unconfined)" -ge $((before + 3)) ]
check "and in its statistics" says $A "confined 0"
drivers unbind
drivers bind
check "taken over at the next bind" says $A "confined 1"
check "one without ACCESS_PLATFORM is not, and the reason is said" \
	grep -q '^reason .*ACCESS_PLATFORM' "$STATS/$C/stats"

# 32 MiB of requests are wanted in flight; slow disks see to it that they are.
host throttle 30
check "a full pool under load: no error, nothing lost" \
	both --rw=write --bs=256k --iodepth=64 --size=16m
host throttle 0
check "the pool was full" [ "$(($(stat_of $A full) + $(stat_of $B full)))" -gt 0 ]
check "4 KiB requests on the same pool" both --iodepth=64
host same vdb "$(md5 /dev/vdb)"
check "the host still has the same bytes" [ "$REPLY" = same ]
drivers unbind
check "unload after that" rmmod sluice
