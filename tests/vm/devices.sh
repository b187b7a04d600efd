# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# devices.sh - host half: one of each of QEMU's virtio devices, and what they talk to
#
# Theory of operation: the network is QEMU's own with restrict=on, and two addresses in it are
# programs of ours: port 1 sends the payload, port 2 keeps what it gets. The serial ports are FIFOs
# that a loop echoes, line by line. Nothing of this touches the host's network.

vm_test() {
	local modern=disable-legacy=on,iommu_platform=on
	mkdir "$VM_DIR/share"
	head -c 4194304 /dev/urandom >"$VM_DIR/share/payload"
	printf '#!/bin/sh\nexec cat %s/share/payload\n' "$VM_DIR" >"$VM_DIR/send"
	printf '#!/bin/sh\nexec cat >%s/received\n' "$VM_DIR" >"$VM_DIR/receive"
	chmod +x "$VM_DIR/send" "$VM_DIR/receive"
	disk_create "$VM_DIR/vda" 16M
	disk_create "$VM_DIR/sda" 16M
	echo_port port
	echo_port hvc
	pool_create devices 16M
	# shellcheck disable=SC2046 # options
	vm_run $(pool_options) \
		-drive "if=none,id=vda,format=raw,file=$VM_DIR/vda" \
		-device "virtio-blk-pci,drive=vda,addr=05.0,$modern" \
		-netdev "user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:1-cmd:$VM_DIR/send,guestfwd=tcp:10.0.2.100:2-cmd:$VM_DIR/receive" \
		-device "virtio-net-pci,netdev=net,romfile=,addr=06.0,$modern" \
		-device "virtio-scsi-pci,id=scsi,addr=07.0,$modern" \
		-drive "if=none,id=sda,format=raw,file=$VM_DIR/sda" -device scsi-hd,drive=sda \
		-device "virtio-rng-pci,addr=08.0,$modern" \
		-device "virtio-serial-pci,addr=09.0,$modern" \
		-chardev "pipe,id=port,path=$VM_DIR/port" -device virtserialport,chardev=port,name=line \
		-chardev "pipe,id=hvc,path=$VM_DIR/hvc" -device virtconsole,chardev=hvc \
		-device "virtio-balloon-pci,addr=0a.0,$modern" \
		-fsdev "local,id=share,path=$VM_DIR/share,security_model=none" \
		-device "virtio-9p-pci,fsdev=share,mount_tag=share,addr=0b.0,$modern"
}

# echo_port NAME: what the guest writes to the chardev comes back to it.
echo_port() {
	mkfifo "$VM_DIR/$1.in" "$VM_DIR/$1.out"
	cat <>"$VM_DIR/$1.out" >"$VM_DIR/$1.in" 2>/dev/null &
	PEERS+=($!)
}

host_md5() { md5sum <"$VM_DIR/share/$1" | cut -d' ' -f1; }

# The program behind port 2 may still be writing when the guest is done sending.
host_received() {
	local n=100
	until [ "$(host_same received "$1")" = same ] || [ $((n -= 1)) -eq 0 ]; do
		sleep 0.1
	done
	host_same received "$1"
}

# host_balloon MIB: ask for that size; print the size that it has.
host_balloon() {
	vm_hmp "balloon $1"
	vm_hmp "info balloon"
	vm_hmp_says 'actual=' | sed 's/.*actual=\([0-9]*\).*/\1/'
}
