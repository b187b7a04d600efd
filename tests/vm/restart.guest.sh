# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# restart.guest.sh - the backend is killed under load and comes back; then the guest does
# shellcheck source=guest/lib.sh
. /test/lib.sh
sluice devices=virtio
check "the disk appears ($PART)" load virtio_pci virtio_blk
if [ "$PART" = kill ]; then
	fio_verify /dev/vda --size=12m --loops=6 --iodepth=8 >/tmp/fio 2>&1 &
	fio=$!
	sleep 2
	check "requests are under way" kill -0 $fio
	host kill_backend
	sleep 1
	host start_backend
	check "a new backend serves" [ "$REPLY" = started ]
	if wait $fio; then
		ok "fio verified through the backend's restart"
	else
		not_ok "fio verified through the backend's restart" "$(tail -n 3 /tmp/fio)"
	fi
else
	check "fio verifies in the next guest" fio_verify /dev/vda
fi
host same disk "$(md5 /dev/vda)"
check "the host has the same bytes ($PART)" [ "$REPLY" = same ]
