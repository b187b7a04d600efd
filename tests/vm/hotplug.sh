# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# hotplug.sh - host half: memory and disks come and go under a guest that verifies its disks
#
# Theory of operation: one guest has two disks of stock backends from its start, one by mode filter (05.0) and
# one by mode shadow (06.0). All of its memory is shared with QEMU's vhost-user devices, what is plugged in
# later, too, so both relays are told of that while their rings run (ADD_MEM_REG, REM_MEM_REG). What may come of it
# is said by the audits: a backend reaches its pool and nothing else of the guest (G1), whatever has come or gone. That
# requests really use the new memory is seen in its file: the host finds there what the guest reads from each disk.
# Memory that leaves and comes again has the same address; a relay that kept the old one would refuse the new.
#
# Then two more disks (07.0 filter, 08.0 shadow) are plugged in and out, again and again, once while they are busy, each by
# one relay (--keep) and one backend. The kernel has been given other memory by then, and the ring of the disk by mode shadow
# lies in it.
#
# With 6.1 it is QEMU 10.0, and in mode shadow a split ring and one thread; with 6.12 the system's QEMU, and in mode shadow
# two packed rings and two threads. HOTPLUG_QEMU=system|10.0 says which QEMU instead.

HOTPLUG_BYTES=$((128 << 20)) # the least that Linux takes
declare -A QSD

vm_test() {
	local disk threads=1
	SHADOW_RING=
	case $(kernel_version "$KERNEL") in
	6.1.*) : "${HOTPLUG_QEMU:=10.0}" ;;
	*)
		: "${HOTPLUG_QEMU:=system}"
		threads=2 SHADOW_RING=,packed=on
		;;
	esac
	TAP_PREFIX+="QEMU $HOTPLUG_QEMU, --threads $threads: "
	qemu_use "$HOTPLUG_QEMU"
	pool_create hotplug 16M
	DISK_QUEUES=$threads
	for disk in filter shadow filter-2 shadow-2; do
		disk_create "$VM_DIR/$disk" 8M
		# fio does not write that far.
		printf 'read from the disk %s' $disk | dd "of=$VM_DIR/$disk" bs=1M seek=7 conv=notrunc status=none
		qsd_start "$VM_DIR/$disk" "$VM_DIR/qsd-$disk"
		case $disk in
		filter*) relay_start "$VM_DIR/relay-$disk" "$VM_DIR/qsd-$disk" --keep ;;
		shadow*) shadow_start "$VM_DIR/relay-$disk" "$VM_DIR/qsd-$disk" --keep --threads $threads ;;
		esac
		QSD[$disk]=$QSD_PID
		mv "$VM_DIR/relay.log" "$VM_DIR/relay-$disk.log"
	done
	# shellcheck disable=SC2046 # options
	vm_run -m "size=${VM_MEMORY}M,slots=2,maxmem=2G" $(all_memory_shared) $(pool_options) \
		-chardev "$(chardev filter)" -device "$(device filter 05.0)" \
		-chardev "$(chardev shadow)" -device "$(device shadow 06.0)"
	tap_check "nothing was refused, no backend was lost" not grep -hE 'refused|away' "$VM_DIR"/relay-*.log
}

chardev() { echo "socket,id=$1,path=$VM_DIR/relay-$1"; }

# device DISK ADDRESS: only if told so the guest's driver asks the DMA API, and thereby sluice.ko.
device() {
	local options=,iommu_platform=on
	[[ $1 == filter* ]] || options=$SHADOW_RING
	echo "vhost-user-blk-pci,id=disk-$1,chardev=$1,num-queues=$DISK_QUEUES,addr=$2,disable-legacy=on$options"
}

# hmp COMMAND: sets HMP to what QEMU's monitor has to say to it.
hmp() {
	local line end=$((SECONDS + 30))
	HMP=
	vm_hmp "$@"
	vm_hmp info status # its answer is the end of the other
	while [ $SECONDS -lt $end ] && IFS= read -r -t 10 -u "$VM_MON_OUT" line; do
		[[ ! $line =~ ^"VM status" ]] || return 0
		HMP+=${line%$'\r'}$'\n'
	done
	return 1
}

# hmp_does COMMAND: prints what it has against it, if so.
hmp_does() { hmp "$@" && ! grep ^Error <<<"$HMP"; }

host_plug_memory() {
	hmp_does "object_add memory-backend-memfd,id=$1,size=$HOTPLUG_BYTES,share=on" &&
		hmp_does "device_add pc-dimm,id=dimm-$1,memdev=$1" && echo "$1"
}

# host_unplug_memory NAME: the guest has to give it up, and is asked again if it could not.
host_unplug_memory() {
	local n
	for ((n = 0; n < 600; n++)); do
		((n % 100)) || hmp "device_del dimm-$1"
		hmp "info memory-devices"
		if [[ $HMP != *dimm-$1* ]]; then
			hmp_does "object_del $1" && echo "$1"
			return
		fi
		sleep 0.1
	done
	echo "the guest does not give it up"
	return 1
}

# host_plug_disk DISK ADDRESS
host_plug_disk() {
	hmp_does "chardev-add $(chardev "$1")" && hmp_does "device_add $(device "$1" "$2")"
}

# host_unplug_disk DISK: when it is gone, so is what its relay was connected to.
host_unplug_disk() {
	local n
	hmp "device_del disk-$1"
	for ((n = 0; n < 600; n++)); do
		hmp "chardev-remove $1"
		[[ $HMP == *busy* ]] || return 0
		sleep 0.1
	done
	echo "the guest does not give it up"
	return 1
}

# host_finds DISK: whether what was read from that disk is in the memory that is plugged in.
host_finds() {
	local fd
	for fd in "/proc/$VM_PID"/fd/*; do
		if [[ $(readlink "$fd") == *memfd:* ]] && [ "$(stat -L -c %s "$fd")" = $HOTPLUG_BYTES ]; then
			grep -aFq "read from the disk $1" "$fd"
			return
		fi
	done
	return 1
}

# host_audit DISK: what its backend reaches of the guest.
host_audit() { audit_says "${QSD[$1]}" --share "$POOL_FILE"; }

# host_ring_inside DISK: whether its first ring is in the memory that is plugged in. (Not by "info
# virtio-queue-status", which stops the ring: docs/PEERS.md.)
host_ring_inside() {
	local ring memory
	hmp "info virtio-vhost-queue-status /machine/peripheral/disk-$1/virtio-backend 0"
	ring=$(awk '$1 == "desc_phys:" { print $2 }' <<<"$HMP")
	hmp "info memory-devices"
	memory=$(awk '$1 == "addr:" { print $2 }' <<<"$HMP")
	if ((ring >= memory && ring < memory + HOTPLUG_BYTES)); then
		echo "inside: $ring"
	else
		echo "outside: $ring, and the memory is at $memory"
	fi
}
