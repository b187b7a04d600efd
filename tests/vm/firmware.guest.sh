# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# firmware.guest.sh - the disk after SeaBIOS has tried to use it with rings in private memory
# shellcheck source=guest/lib.sh
. /test/lib.sh
host refused
check "the relay reported the firmware's ring" [ "$REPLY" = yes ]
host alive
check "backend and relay outlived it" [ "$REPLY" = yes ]
sluice devices=virtio
check "the disk appears all the same" load virtio_pci virtio_blk
check "fio verifies" fio_verify /dev/vda
host same disk "$(md5 /dev/vda)"
check "the host has the same bytes" [ "$REPLY" = same ]
check "the disk's traffic went through the pool" bounced 0000:00:05.0
