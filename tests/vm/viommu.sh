# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# viommu.sh - host half: QEMU's virtio-iommu, and its edu device behind it
#
# Theory of operation: the peer is QEMU, the guest's kernel has no part in it: one series is enough.

vm_test() {
	if [ "$(kernel_version "$KERNEL" | cut -d. -f1,2)" != 6.1 ]; then
		echo "# nothing in it depends on the kernel: run on 6.1 only"
		return
	fi
	make_in_turn -s all || die "libsluice does not build"
	gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -I"$ROOT/include" -I"$ROOT/lib/port" -static \
		-o "$VM_DIR/viommu" "$ROOT"/tests/vm/{viommu.guest,vpci}.c "$ROOT/build/libsluice.a" ||
		die "viommu.guest.c does not build"
	# shellcheck disable=SC2034 # for vm_start
	VM_FILES="$VM_DIR/viommu viommu"
	vm_run -device virtio-iommu-pci,addr=05.0,disable-legacy=on,boot-bypass=off \
		-device edu,addr=06.0,dma_mask=0xffffffff
}
