# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# firmware.sh - host half: SeaBIOS probes every virtio disk, and knows of no pool
#
# Theory of operation: qemu-storage-daemon ends itself on a ring outside the memory that it was
# given, so without care a guest's firmware takes the backend down before Linux starts.
#
# edd=off, because Linux's own boot code reads the first sector of each disk through the firmware,
# and SeaBIOS waits for ever for a disk that does not answer. (-boot strict=on keeps SeaBIOS away
# from the disk in the first place, but then there is nothing to test.)

vm_firmware() { :; } # QEMU's default, SeaBIOS

vm_test() {
	disk_create "$VM_DIR/disk" 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	pool_create firmware 16M
	relay_start "$VM_DIR/relay" "$VM_DIR/qsd"
	# shellcheck disable=SC2046 # options
	vm_run -a edd=off $(pool_options) $(vhost_disk "$VM_DIR/relay" ,disable-legacy=on,iommu_platform=on)
}

# The relay's own words, or its last ones.
host_refused() {
	if grep -Eqi 'refus.*ring|ring.*refus' "$VM_DIR/relay.log"; then
		echo yes
	else
		tail -n 1 "$VM_DIR/relay.log"
	fi
}
