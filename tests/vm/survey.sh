# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# survey.sh - host half: one disk, and the recorder in the guest's initramfs

vm_test() {
	make_in_turn -s static || die "the static program does not build"
	disk_create "$VM_DIR/vda" 16M
	pool_create survey 16M
	# shellcheck disable=SC2034 # for vm_start
	VM_FILES="$ROOT/build/static/sluice sluice"
	# shellcheck disable=SC2046 # options
	vm_run $(pool_options) -drive "if=none,id=vda,format=raw,file=$VM_DIR/vda" \
		-device virtio-blk-pci,drive=vda,addr=05.0,disable-legacy=on,iommu_platform=on
}
