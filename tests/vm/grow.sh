# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# grow.sh - host half: four disks of QEMU's own and a pool of 64 MiB, of which little is used at first
#
# Theory of operation: as in disks.sh, requests pile up in the guest because the disks are slow, all of
# them together, for as long as the guest's half wants that.

vm_test() {
	local n disks=()
	for n in 0 1 2 3; do
		disk_create "$VM_DIR/disk$n" 16M
		disks+=(-drive "if=none,id=disk$n,format=raw,file=$VM_DIR/disk$n,throttling.group=all,throttling.iops-total=1000000"
			-device "virtio-blk-pci,drive=disk$n,addr=$(printf %02x $((5 + n))).0,disable-legacy=on,iommu_platform=on")
	done
	vm_run -object memory-backend-ram,id=pool,size=64M -device ivshmem-plain,memdev=pool,addr=04.0 \
		"${disks[@]}"
}

# host_throttle N: let all disks together do N requests a second.
host_throttle() { vm_hmp "block_set_io_throttle disk0 0 0 0 $1 0 0"; }
