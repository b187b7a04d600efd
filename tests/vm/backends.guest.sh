# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# backends.guest.sh - devices by stock backends, each with a relay in between; no sluice.ko
# shellcheck source=guest/lib.sh
. /test/lib.sh

# there DEVICE: whether it is.
there() {
	host skip "$1"
	[ "$REPLY" = - ] && return
	skip "$1" "$REPLY"
	return 1
}

host mode
mode=$REPLY

# confined DEVICE
confined() {
	[ "$mode" != shadow ] || host_check "$1: audit" audit "$1"
}

# restarted DEVICE: its backend, which without a relay would be the end of the device.
restarted() {
	[ "$mode" = shadow ] && host restart "$1"
}

# rebound DEVICE BDF: its driver lets go of it, which stops its rings with buffers in them, and takes it again.
rebound() {
	local virtio driver before
	virtio=$(basename "$(ls -d "/sys/bus/pci/devices/0000:00:$2/virtio"*)")
	driver=$(readlink -f "/sys/bus/virtio/devices/$virtio/driver")
	before=$(date +%s)
	check "$1: its driver lets go of it" sh -c "echo $virtio >$driver/unbind"
	echo "# $1: that took $(($(date +%s) - before)) s" >&8
	check "$1: and takes it again" sh -c "echo $virtio >$driver/bind"
}

# vsock_up WHEN: the guest connects; 3 MB out and 4 MB in at once.
vsock_up() {
	host listen 3000000
	check "vsock: a connection to the host $1" \
		sh -c "/test/stream connect vsock:2:2000 4000000 </tmp/out >/tmp/in"
	host received
	check "vsock: the host has the guest's bytes $1" [ "$REPLY" = "$(md5 /tmp/out)" ]
	host file_sum payload
	check "vsock: the guest has the host's bytes $1" [ "$REPLY" = "$(md5 /tmp/in)" ]
}

vsock_down() {
	/test/stream listen vsock:4294967295:2001 4000000 </tmp/out >/tmp/in 2>/tmp/stream.log &
	host connect 3000000
	wait
	check "vsock: a connection from the host $1" [ "$REPLY" = "$(md5 /tmp/out)" ]
	host file_sum payload
	check "vsock: and the guest has the host's bytes $1" [ "$REPLY" = "$(md5 /tmp/in)" ]
}

load virtio_pci
if there vsock; then
	check "vsock: it appears" load vmw_vsock_virtio_transport
	head -c 3000000 /dev/urandom >/tmp/out
	vsock_up ""
	vsock_down ""
	confined vsock
	if restarted vsock; then
		vsock_up "after its backend was killed"
		vsock_down "after its backend was killed"
		confined vsock
	fi
	rebound vsock 05.0
	vsock_up "after that"
fi

# net_moves WHEN: a file by TCP each way.
net_moves() {
	host net_up
	check "net: a file arrives $1" wait_for 2 timeout 15 wget -q -O /tmp/file http://10.9.0.1:8080/file
	host file_sum www/file
	check "net: and is the same $1" [ "$REPLY" = "$(md5 /tmp/file)" ]
	host net_listen
	wait_for 2 timeout 30 nc 10.9.0.1 9 </tmp/file
	host received
	check "net: a file leaves and is the same $1" [ "$REPLY" = "$(md5 /tmp/file)" ]
	check "net: 200 packets of 1400 bytes each way $1" ping -q -A -c 200 -s 1400 10.9.0.1
}

net_has_address() {
	ip addr add 10.9.0.2/24 dev eth0
	check "net: it comes up" ip link set eth0 up
}

if there net; then
	load virtio_net
	net_has_address
	net_moves ""
	confined net
	! restarted net || net_moves "after its backend was killed"
	rebound net 08.0
	net_has_address
	net_moves "after that"
fi

rng_gives() {
	rm -f /tmp/rng
	timeout 60 dd if=/dev/hwrng of=/tmp/rng bs=1k count=64 iflag=fullblock 2>/dev/null
	check "rng: gives 64 KiB $1" [ "$(wc -c </tmp/rng)" = 65536 ]
	# Random bytes do not compress; constant or repeated ones do.
	check "rng: they are not constant $1" [ "$(gzip -c /tmp/rng | wc -c)" -gt 65000 ]
}

if there rng; then
	check "rng: it appears" load virtio-rng
	check "rng: it is the one in use" grep -q virtio_rng /sys/class/misc/hw_random/rng_current
	rng_gives ""
	confined rng
	! restarted rng || rng_gives "after its backend was killed"
	rebound rng 06.0
	rng_gives "after that"
fi

if there scsi; then
	check "scsi: it appears" load virtio_scsi sd_mod
	check "scsi: a disk" wait_for 20 [ -b /dev/sda ]
	host same scsi-disk "$(md5 /dev/sda)"
	check "scsi: the guest reads what the host has" [ "$REPLY" = same ]
	confined scsi
	if restarted scsi; then
		echo 3 >/proc/sys/vm/drop_caches
		host same scsi-disk "$(md5 /dev/sda)"
		check "scsi: and after its backend was killed" [ "$REPLY" = same ]
	fi
fi

host alive
check "all backends and relays are alive" [ "$REPLY" = yes ]
