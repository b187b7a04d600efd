# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# survey.guest.sh - a recording says what the device says, and observing changes nothing
#
# Theory of operation: 05.0 is a disk that stays bound throughout. mode=observe comes and goes under
# it. fio's own count of requests, and the disk's statistics, are what the recording is held against.
# shellcheck source=guest/lib.sh
. /test/lib.sh
DISK=0000:00:05.0

refuses "observe: not with a pool" "sluice:.*no use for a pool" sluice mode=observe devices=all
refuses "observe: devices have to be named" "sluice:.*devices" insmod /test/sluice.ko mode=observe
refuses "bounce: not with devices=all" "sluice:.*all" sluice devices=all
refuses "record: no module, and says so" "load sluice.ko" /test/sluice survey record -o /tmp/none
check "the disk's driver is bound first" load virtio_pci virtio_blk
check "observe: loads beside a bound driver" insmod /test/sluice.ko mode=observe devices=all
check "observe: no device is taken" [ ! -e "$STATS/$DISK" ]
check "recorded" /test/sluice survey record -o /tmp/s --title "short fio" -- \
	fio --name=j --filename=/dev/vda --ioengine=libaio --direct=1 --thread --rw=randread \
	--bs=8k --iodepth=8 --size=4m
ls -la /tmp/s
