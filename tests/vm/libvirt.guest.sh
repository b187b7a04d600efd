# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# libvirt.guest.sh - a guest of libvirt's
# shellcheck source=guest/lib.sh
. /test/lib.sh
check "disk: it appears" load virtio_pci virtio_blk
host same disk "$(md5 /dev/vda)"
check "disk: same bytes as the host has" [ "$REPLY" = same ]
check "disk: fio verifies 4 KiB random writes" fio_verify /dev/vda
host audit disk
check "audit ($REPLY)" [ $? = 0 ]
host same disk "$(md5 /dev/vda)"
check "disk: the host has the same bytes" [ "$REPLY" = same ]
