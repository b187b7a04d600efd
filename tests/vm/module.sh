# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# module.sh - host half: two disks of QEMU's own and three pools
#
# Theory of operation: nothing here shares memory with another process, so the pools need no file.

vm_test() {
	local modern=disable-legacy=on,iommu_platform=on
	disk_create "$VM_DIR/vda" 16M
	disk_create "$VM_DIR/vdb" 16M
	vm_run -object memory-backend-ram,id=p1,size=1M -device ivshmem-plain,memdev=p1,addr=02.0 \
		-object memory-backend-ram,id=p4,size=4M -device ivshmem-plain,memdev=p4,addr=03.0 \
		-object memory-backend-ram,id=p16,size=16M -device ivshmem-plain,memdev=p16,addr=04.0 \
		-drive "if=none,id=vda,format=raw,file=$VM_DIR/vda" \
		-device "virtio-blk-pci,drive=vda,addr=05.0,$modern" \
		-drive "if=none,id=vdb,format=raw,file=$VM_DIR/vdb" \
		-device "virtio-blk-pci,drive=vdb,addr=06.0,$modern" \
		-device virtio-rng-pci,disable-legacy=on,addr=07.0
}

# host_throttle N: let each disk do N requests a second; 0 is as many as it can.
host_throttle() {
	vm_hmp "block_set_io_throttle vda 0 0 0 $1 0 0"
	vm_hmp "block_set_io_throttle vdb 0 0 0 $1 0 0"
}
