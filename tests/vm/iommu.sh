# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# iommu.sh - host half: devices of QEMU's own behind its intel-iommu, and on 6.12 behind its virtio-iommu
#
# Theory of operation: each device is a group of its own. Linux is lazy unless told otherwise, so that the
# guest can have its groups either way. reach.ko (reach/) drives QEMU's edu device, which reads and
# writes whatever address it is told.
IMAGE_MODULES="$IMAGE_MODULES nvme e1000e"
MODERN=disable-legacy=on,iommu_platform=on

disk() { # NAME ADDR
	disk_create "$VM_DIR/$1" 16M
	printf -- '-drive if=none,id=%s,format=raw,file=%s ' "$1" "$VM_DIR/$1"
}

# shellcheck disable=SC2034,SC2046 # for vm_start; options
vm_test() {
	local reach
	reach=$(test_module reach "$KERNEL" "$ROOT"/tests/vm/reach/*) || {
		tap_not_ok "reach.ko" "it does not build"
		return
	}
	VM_MACHINE=q35
	VM_TIMEOUT=$((VM_TIMEOUT * 3 / 2)) # one boot for many checks
	VM_FILES="$reach reach.ko"
	mkdir "$VM_DIR/tftp"
	head -c 1M /dev/urandom >"$VM_DIR/tftp/file"
	SUM=$(md5sum <"$VM_DIR/tftp/file")
	vm_run -p intel -a "intel_iommu=on" -device intel-iommu,intremap=off \
		$(disk vda) -device "virtio-blk-pci,drive=vda,addr=05.0,$MODERN" \
		$(disk nvme) -device "nvme,drive=nvme,serial=1,addr=06.0" \
		-netdev "user,id=net,restrict=on,tftp=$VM_DIR/tftp" \
		-device e1000e,netdev=net,romfile=,addr=07.0 \
		$(disk sda) -device "virtio-scsi-pci,id=scsi,addr=08.0,$MODERN" \
		-device scsi-hd,drive=sda,bus=scsi.0 \
		-device edu,dma_mask=0xffffffff,addr=09.0 \
		-device pcie-root-port,id=rp,chassis=1,addr=0a.0 \
		$(disk vdb) -device "virtio-blk-pci,id=vdb,drive=vdb,bus=rp,$MODERN"
	[ "$(kernel_version "$KERNEL" | cut -d. -f1,2)" != 6.1 ] || return 0
	IMAGE_MODULES="$IMAGE_MODULES virtio-iommu"
	rm -f "$VM_DIR/initrd"
	vm_run -p virtio -device virtio-iommu-pci \
		$(disk vda) -device "virtio-blk-pci,drive=vda,addr=05.0,$MODERN" \
		-device edu,dma_mask=0xffffffff,addr=09.0
}

# host_unplug: take the disk behind the root port out of the machine, without asking the guest to be quiet.
host_unplug() { vm_hmp "device_del vdb"; }

# host_file_sum: of what the guest has fetched.
host_file_sum() { echo "${SUM%% *}"; }

# host_throttle IOPS: of the nvme's disk.
host_throttle() { vm_hmp "block_set_io_throttle nvme 0 0 0 $1 0 0"; }
