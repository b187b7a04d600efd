# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# disks.sh - host half: 20 disks of QEMU's own, a pool with room for four, one far too small for all
#
# Theory of operation: the disks stand at 05.0 to 18.0 and lie in /dev/shm; nothing here shares memory
# with another process, so the pools need no file. So that requests pile up in the guest, the disks
# are slow, all of them together: whoever has room in the pool then has the disks' time too, and
# whoever has none falls behind.

DISKS=20

vm_test() {
	local n file disks=()
	for ((n = 0; n < DISKS; n++)); do
		file=/dev/shm/sluice-$$-disk$n
		PEERS_FILES+=("$file")
		disk_create "$file" 8M
		disks+=(-drive "if=none,id=disk$n,format=raw,file=$file,throttling.group=all,throttling.iops-total=1000000" -device
			"virtio-blk-pci,drive=disk$n,addr=$(printf %02x $((5 + n))).0,disable-legacy=on,iommu_platform=on")
	done
	vm_run -object memory-backend-ram,id=small,size=4M -device ivshmem-plain,memdev=small,addr=03.0 \
		-object memory-backend-ram,id=large,size=64M -device ivshmem-plain,memdev=large,addr=04.0 \
		"${disks[@]}"
}

# host_throttle N: let all disks together do N requests a second.
host_throttle() { vm_hmp "block_set_io_throttle disk0 0 0 0 $1 0 0"; }

# host_same_disk N MD5: whether the file of disk N has that checksum.
host_same_disk() {
	if [ "$(md5sum </dev/shm/sluice-$$-disk"$1")" = "$2  -" ]; then echo same; else echo different; fi
}
