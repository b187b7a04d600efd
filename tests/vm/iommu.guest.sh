# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# iommu.guest.sh - pool=system: stacked over an IOMMU, and what a device reaches then
#
# Theory of operation: a device that tries what it can reach (reach.ko) does so in each mode that Linux has,
# and on top of the laziest of them under Sluice. Then disks and a network card of several kinds do
# their work with policy auto, while the guest sleeps and wakes up and one of them is unplugged, and one of
# them under each policy.
# shellcheck source=guest/lib.sh
. /test/lib.sh

BLK=0000:00:05.0
NVME=0000:00:06.0
NET=0000:00:07.0
SCSI=0000:00:08.0
EDU=0000:00:09.0
PORT=0000:01:00.0 # a disk behind a root port, to be unplugged

note() { echo "# $*" >&8; }
says() { grep -q "^$2\$" "$STATS/$1/stats"; }
group_type() { echo "/sys/bus/pci/devices/$1/iommu_group/type"; }

# notes BDF: the figures that tell which way transfers went.
notes() {
	note "$1: $(grep -E '^(policy|bounced|shared|split|break_even|break_even_split|invalidations|invalidations_saved) ' \
		"$STATS/$1/stats" | tr '\n' ' ')"
}

# reach LABEL: one run of the device's; its results are in /tmp/reach.LABEL.
reach() {
	local before
	before=$(dmesg | wc -l)
	if [ -e /sys/bus/pci/drivers/reach ]; then
		echo $EDU >/sys/bus/pci/drivers/reach/bind
	else
		insmod /test/reach.ko
	fi
	SPLIT=$(grep '^split ' "$STATS/$EDU/stats" 2>/dev/null)
	SHARED=$(stat_of $EDU shared 2>/dev/null)
	WAITS=$(stat_of $EDU invalidations 2>/dev/null)
	CALLS=$(stat_of $EDU lower_operations 2>/dev/null)
	dmesg | tail -n "+$((before + 1))" | sed -n 's/.*it got: //p' >"/tmp/reach.$1"
	echo $EDU >/sys/bus/pci/drivers/reach/unbind
	note "reach under $1: $(tr '\n' ' ' <"/tmp/reach.$1")"
}
got() { sed -n "s/^$2 //p" "/tmp/reach.$1"; }
# all_zero LABEL: it came to its end, and everything says 0.
all_zero() {
	cat "/tmp/reach.$1"
	[ "$(got "$1" end)" = 0 ] && ! grep -qv ' 0$' "/tmp/reach.$1"
}

behind_intel() {
	check "its IOMMU is in use" [ -e "$(group_type $EDU)" ] || return

	# What Linux gives a device, before Sluice is there.
	echo identity >"$(group_type $EDU)"
	reach unprotected
	echo DMA-FQ >"$(group_type $EDU)"
	reach lazy
	check "unprotected, the device reaches other memory" [ "$(got unprotected other_memory)" -gt 0 ]
	check "Linux lazy: a buffer after its unmap" [ "$(got lazy whole_after_unmap)" -gt 0 ]
	check "Linux lazy: and changes it" [ "$(got lazy wrote_after_unmap)" -gt 0 ]

	refuses "policy: unknown" "sluice:.*policy=fast" sluice pool=system policy=fast devices=virtio
	refuses "policy: not with a BAR's pool" "sluice:.*pool=system" sluice policy=auto devices=virtio
	refuses "size above pool_max" "sluice:.*pool_max" sluice pool=system size=64M pool_max=32M \
		devices=virtio
	check "loads, for five devices" sluice pool=system size=8M \
		"devices=$BLK,$NVME,$NET,$EDU,$PORT"
	for policy in share auto; do
		echo $policy >/sys/bus/pci/devices/$EDU/sluice/policy
		reach sluice-$policy
		check "$policy: G1, G2, G3: nothing but what is the device's, all of that" all_zero sluice-$policy
		[ $policy != share ] || check "one was split" [ "$SPLIT" = "split 1" ]
		# A few single ones (one is split), and a list of 24, both tried again now and then.
		[ $policy != share ] || check "the list was waited for once" sh -c \
			"[ $SHARED -ge 24 ] && [ $(((SHARED + 1 - WAITS) % 23)) = 0 ] || { echo $SHARED, $WAITS; false; }"
		# One unmap for each, and one map for some of the list and for the three pieces of what was split.
		[ $policy != share ] || check "and its pages were mapped some at a time" sh -c \
			"[ $CALLS -lt $((2 * SHARED)) ] || { echo $SHARED, $CALLS; false; }"
	done

	check "the drivers come" load virtio_pci virtio_blk nvme e1000e
	wait_for 10 [ -b /dev/nvme0n1 ]
	for bdf in $BLK $NVME $NET; do
		check "$bdf is confined, over the IOMMU" says "$bdf" "lower iommu"
	done
	check "virtio-blk verifies, 4 KiB" fio_verify /dev/vda --size=4m
	check "virtio-blk verifies, 256 KiB" fio_verify /dev/vda --bs=256k
	check "virtio-blk verifies, buffers inside pages" fio_verify /dev/vda --bs=64k --iomem_align=512
	check "nvme verifies, 4 KiB" fio_verify /dev/nvme0n1 --size=4m
	check "nvme verifies, 256 KiB" fio_verify /dev/nvme0n1 --bs=256k
	notes $BLK
	notes $NVME
	check "small ones bounced" [ "$(stat_of $BLK bounced)" -gt 1000 ]
	check "long ones were mapped in place" [ "$(stat_of $BLK shared)" -gt 0 ]
	check "one invalidation for each of these, none for others" \
		[ "$(stat_of $BLK invalidations)" -le $(($(stat_of $BLK shared) + $(stat_of $BLK split))) ]
	check "nothing was refused" says $BLK "refused 0"
	ifconfig eth0 10.0.2.15 up
	check "e1000e fetches a file" tftp -g -r file -l /tmp/file 10.0.2.2
	host file_sum
	check "e1000e: it is the same" [ "$(md5 /tmp/file)" = "$REPLY" ]
	notes $NET

	fio_verify /dev/vda --bs=16k --time_based --runtime=3 >/tmp/asleep 2>&1 &
	fio=$!
	sleep 1
	echo 1 >/sys/module/suspend/parameters/pm_test_delay
	echo devices >/sys/power/pm_test
	check "all devices are suspended and resumed, in the middle of it" \
		sh -c "echo mem >/sys/power/state"
	check "and virtio-blk verifies" wait $fio
	check "nvme works after that" fio_verify /dev/nvme0n1 --bs=64k --size=2m

	fio_verify /dev/vdb --bs=64k --time_based --runtime=60 >/tmp/unplugged 2>&1 &
	fio=$!
	wait_for 10 sh -c "[ \$(sed -n 's/^bounced //p' $STATS/$PORT/stats) -gt 1000 ]"
	host unplug
	check "a disk is unplugged at work" wait_for 10 sh -c "! [ -e /sys/bus/pci/devices/$PORT ]"
	killall fio
	wait $fio
	check "and has gone from the statistics" sh -c "! [ -e $STATS/$PORT ]"
	check "the others work on" fio_verify /dev/vda --bs=64k --size=1m

	refuses "a new policy is refused while anything is mapped" "busy|Busy" \
		sh -c "echo share >/sys/bus/pci/devices/$NVME/sluice/policy"
	refuses "unload in use is refused" "" rmmod sluice
	echo $NVME >/sys/bus/pci/drivers/nvme/unbind
	for policy in share bounce off; do
		check "unbound, nvme is switched to $policy" \
			sh -c "echo $policy >/sys/bus/pci/devices/$NVME/sluice/policy"
		echo $NVME >/sys/bus/pci/drivers/nvme/bind
		wait_for 10 [ -b /dev/nvme0n1 ]
		check "nvme verifies with $policy" fio_verify /dev/nvme0n1 --bs=64k --size=4m
		case $policy in
		share) check "mapped in place" [ "$(stat_of $NVME shared)" -gt 100 ] ;;
		bounce) check "nothing was mapped for a transfer" says $NVME "invalidations 0" ;;
		off) check "it is not confined, and that is said" says $NVME "confined 0" ;;
		esac
		echo $NVME >/sys/bus/pci/drivers/nvme/unbind
	done
	echo auto >/sys/bus/pci/devices/$NVME/sluice/policy
	echo identity >"$(group_type $NVME)"
	echo $NVME >/sys/bus/pci/drivers/nvme/bind
	wait_for 10 [ -b /dev/nvme0n1 ]
	check "without an IOMMU, nvme verifies with auto" fio_verify /dev/nvme0n1 --bs=64k --size=4m
	check "it is said that nothing protects from it" says $NVME "protected 0"
	check "and in the log" sh -c "dmesg | grep -q '$NVME: sluice: .*NOTHING PROTECTS'"
	echo $NVME >/sys/bus/pci/drivers/nvme/unbind

	for bdf in $BLK $NET; do
		echo "$bdf" >"/sys/bus/pci/devices/$bdf/driver/unbind"
	done
	echo off >/sys/bus/pci/devices/$BLK/sluice/policy
	echo $BLK >/sys/bus/pci/drivers/virtio-pci/bind
	check "switched off: that is why, with its driver bound" \
		says $BLK "reason switched off (policy in sysfs)"
	echo $BLK >/sys/bus/pci/drivers/virtio-pci/unbind
	check "unload when nothing uses it" rmmod sluice
	check "loads, for more than there are addresses" sluice pool=system pool_max=3G devices=$BLK
	for time in first second; do
		echo $BLK >/sys/bus/pci/drivers/virtio-pci/bind
		check "refused the $time time: the reason is there when its driver is bound" \
			says $BLK "reason there is no range of device addresses .*"
		echo $BLK >/sys/bus/pci/drivers/virtio-pci/unbind
	done
	check "and goes" rmmod sluice
	echo $BLK >/sys/bus/pci/drivers/virtio-pci/bind
	echo $NVME >/sys/bus/pci/drivers/nvme/bind
	wait_for 10 [ -b /dev/nvme0n1 ]
	check "without it, virtio-blk works as before" fio_verify /dev/vda --size=2m
	check "without it, nvme works as before" fio_verify /dev/nvme0n1 --size=2m
	echo DMA >"$(group_type $EDU)"
	reach strict
	check "Linux strict: neighbours of a small buffer" [ "$(got strict neighbours)" -gt 0 ]
	check "Linux strict: and changes them" [ "$(got strict wrote_neighbours)" -gt 0 ]

	check "loads once more, with small pools" \
		sluice pool=system size=4M pool_max=4M policy=bounce "devices=$SCSI,$NVME,$EDU"
	echo $NVME >/sys/bus/pci/drivers/nvme/unbind
	echo $NVME >/sys/bus/pci/drivers/nvme/bind
	wait_for 10 [ -b /dev/nvme0n1 ]
	host throttle 30 # so that what is wanted at once is not done one by one
	check "a full pool under load: no error, nothing lost" \
		fio_verify /dev/nvme0n1 --bs=512k --iodepth=64
	note "$(grep -E '^(full|refused|pool_(full|bytes|max|used_max|start)) ' $STATS/$NVME/stats | tr '\n' ' ')"
	check "it was full" [ "$(stat_of $NVME full)" -gt 0 ]
	echo $NVME >/sys/bus/pci/drivers/nvme/unbind

	# As networking does, with buffers on their way.
	echo 1 >/sys/module/reach/parameters/leave
	echo $EDU >/sys/bus/pci/drivers/reach/bind
	echo $EDU >/sys/bus/pci/drivers/reach/unbind
	check "a driver leaves a mapping behind" says $EDU "live 1"
	echo 0 >/sys/module/reach/parameters/leave
	check "and takes it back when it is gone" says $EDU "live 0"
	echo 1 >/sys/bus/pci/devices/$EDU/remove
	check "then the device goes, too" sh -c "! [ -e $STATS/$EDU ]"

	# Last, as its driver leaves its eight event buffers mapped when it is unbound.
	echo auto >/sys/bus/pci/devices/$SCSI/sluice/policy
	load virtio_scsi sd_mod
	wait_for 10 [ -b /dev/sda ]
	check "virtio-scsi verifies" fio_verify /dev/sda --bs=64k --size=4m
	notes $SCSI
	echo $SCSI >/sys/bus/pci/devices/$SCSI/driver/unbind
	check "what a driver has left behind keeps the module" sh -c "! rmmod sluice"
	check "and is said" sh -c "dmesg | grep -q '$SCSI: sluice: its driver has left 8 mappings'"
}

behind_virtio() {
	load virtio-iommu
	check "loads" sluice pool=system size=8M "devices=$BLK,$EDU"
	echo share >/sys/bus/pci/devices/$EDU/sluice/policy
	reach sluice-share
	check "share: G1, G2, G3: nothing but what is the device's, all of that" all_zero sluice-share
	check "its lists were mapped and all was taken back" \
		sh -c "[ $SHARED -ge 48 ] && ! dmesg | grep 'does not let go'"
	load virtio_pci virtio_blk
	wait_for 10 [ -b /dev/vda ]
	check "confined, over the virtio-iommu" says $BLK "lower iommu"
	check "virtio-blk verifies, 4 KiB" fio_verify /dev/vda --size=4m
	check "virtio-blk verifies, 256 KiB" fio_verify /dev/vda --bs=256k --size=4m
	notes $BLK
	modprobe -r virtio_blk
	check "unload when nothing uses it" rmmod sluice
	load virtio_blk
	check "without it, it works as before" fio_verify /dev/vda --size=2m
}

"behind_$PART"
