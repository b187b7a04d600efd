# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# confidential.sh - host half: one disk of QEMU's own, in a guest that takes itself for a confidential one
#
# Theory of operation: there is no such hardware here, so confidential.ko (confidential/) pretends, and the
# disk's backend does reach all of the guest's memory. The kernel is told not to clear what it allocates,
# for that would hide what sluice.ko does not clear.

# shellcheck disable=SC2034 # for vm_start
vm_test() {
	local ko
	ko=$(test_module confidential "$KERNEL" "$ROOT"/tests/vm/confidential/*) || {
		tap_not_ok "confidential.ko" "it does not build"
		return
	}
	VM_FILES="$ko confidential.ko"
	disk_create "$VM_DIR/disk" 16M
	vm_run -a "init_on_alloc=0" -drive "if=none,id=disk,format=raw,file=$VM_DIR/disk,throttling.iops-total=1000000" \
		-device virtio-blk-pci,drive=disk,addr=05.0,disable-legacy=on,iommu_platform=on
}

# host_throttle N: let the disk do N requests a second.
host_throttle() { vm_hmp "block_set_io_throttle disk 0 0 0 $1 0 0"; }
