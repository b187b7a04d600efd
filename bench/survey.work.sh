# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# survey.work.sh - one load of the survey, by its name; fails if its data are not right
#
# Theory of operation: run by the recorder, so what is in here is what is recorded. Data go out and
# come back, or the host compares.
set -e
# shellcheck source=../tests/vm/guest/lib.sh
. /test/lib.sh

# same WHAT: whether the host's answer was that.
same() { [ "$REPLY" = same ] || { echo "$1: the host has other bytes: $REPLY"; exit 1; }; }

# disk DEVICE NAME: the same on every kind of disk.
disk() {
	fio_verify "$1" --size=16m
	fio --name=seq "--filename=$1" --ioengine=libaio --direct=1 --thread --rw=write --bs=128k \
		--iodepth=4 --size=32m --verify=crc32c --verify_fatal=1 --do_verify=1
	fio --name=deep "--filename=$1" --ioengine=libaio --direct=1 --thread --rw=randrw --bs=4k \
		--iodepth=32 --time_based --runtime=5
	host same "$2" "$(md5 "$1")"
	same "$1"
}

# up INTERFACE-DRIVER NET: sets NET
interface() {
	local i
	for i in /sys/class/net/*; do
		case $(readlink -f "$i/device") in
		*0000:00:$1*) NET=${i##*/} ;;
		esac
	done
	ip link set "$NET" up
	ip addr add "10.0.$2.15/24" dev "$NET" 2>/dev/null || true
	wait_for 15 ping -c 1 -W 1 "10.0.$2.2"
}

# request_response SUBNET N: a line there, the same line back, N times.
request_response() {
	local n=0 line
	rm -f /tmp/ask
	mkfifo /tmp/ask
	nc "10.0.$1.100" 3 </tmp/ask >/tmp/answers &
	exec 7>/tmp/ask
	while [ $n -lt "$2" ]; do
		echo "request number $n of a few hundred, sixty-four bytes or so" >&7
		n=$((n + 1))
		until [ "$(wc -l </tmp/answers)" -ge $n ]; do :; done
	done
	exec 7>&-
	wait $! || true
	line=$(tail -n 1 /tmp/answers)
	[ "$line" = "request number $(($2 - 1)) of a few hundred, sixty-four bytes or so" ]
	[ "$(wc -l </tmp/answers)" = "$2" ]
}

network() {
	case $1 in
	rr) request_response "$2" 300 ;;
	in)
		nc "10.0.$2.100" 1 </dev/null >/tmp/down
		host md5 payload
		[ "$(md5 /tmp/down)" = "$REPLY" ]
		rm /tmp/down
		;;
	out)
		head -c 16777216 /dev/urandom >/tmp/up
		nc "10.0.$2.100" 2 </tmp/up
		host received "$(md5 /tmp/up)"
		rm /tmp/up
		same "what was sent"
		;;
	small) ping -q -A -c 1000 -s 56 "10.0.$2.2" | grep ' 0% packet loss' ;;
	esac
}

round_trip() {
	head -c "$2" /dev/urandom >/tmp/message
	exec 7<>"$1"
	stty raw -echo <&7 2>/dev/null || true
	cat /tmp/message >&7 &
	timeout 30 head -c "$2" <&7 >/tmp/back
	wait
	exec 7>&-
	cmp /tmp/message /tmp/back
}

# What the drivers map when they come, and the first use of the root file system.
start() {
	load virtio_pci virtio_blk virtio_net virtio_scsi sd_mod nvme e1000e virtio-rng virtio_console \
		virtio-gpu 9pnet_virtio 9p ext4
	[ "$PART" = bounce ] || load virtio_balloon
	wait_for 20 [ -b /dev/vda ]
	wait_for 20 [ -b /dev/sda ]
	wait_for 20 [ -b /dev/nvme0n1 ]
	ip link set lo up
	mkdir -p /mnt/root /mnt/9
	# Which of the two disks has a file system on it is not certain: names go by probing.
	mount -t ext4 "/dev/$(root_disk)" /mnt/root
	mount -t proc proc /mnt/root/proc
	mount --bind /dev /mnt/root/dev
	chroot /mnt/root /usr/bin/dash -c 'dpkg -l; perl -e "print 1"; ldconfig; find / -xdev -type f | wc -l' >/dev/null
	interface 06.0 2
	interface 0f.0 3
}

# disk_at FUNCTION: the name of the virtio disk there
disk_at() {
	local d
	for d in /sys/block/vd*; do
		case $(readlink -f "$d/device") in *0000:00:$1*) echo "${d##*/}" ;; esac
	done
}
root_disk() { disk_at 05.0; }

files() {
	local dir="$1/work" i
	mkdir "$dir"
	for i in $(seq 400); do
		head -c $((i * 37 % 20000 + 1)) /dev/urandom >"$dir/$i"
	done
	head -c 8388608 /dev/urandom >"$dir/large"
	(cd "$dir" && md5sum -- * >/tmp/sums)
	cp -r "$dir" "$dir.copy"
	sync
	echo 3 >/proc/sys/vm/drop_caches
	(cd "$dir.copy" && md5sum -c /tmp/sums >/tmp/sums.out) || { grep -v OK /tmp/sums.out; exit 1; }
	rm -rf "$dir" "$dir.copy"
	sync
}

packages() {
	echo 3 >/proc/sys/vm/drop_caches
	# By its path: busybox would run its own shell, and that its own dpkg.
	# shellcheck disable=SC2016 # for the shell in there
	chroot /mnt/root /usr/bin/dash -c 'export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
		dpkg -i /pkg/*.deb && sync' >/tmp/dpkg.out 2>&1 || { tail -n 5 /tmp/dpkg.out; exit 1; }
	# What dpkg wrote, read anew and held against the packages' own checksums.
	echo 3 >/proc/sys/vm/drop_caches
	chroot /mnt/root /usr/bin/dpkg --verify less nano file bzip2 xz-utils vim-common vim-tiny >/tmp/verify
	[ ! -s /tmp/verify ]
}

gpu() {
	local i
	wait_for 20 [ -e /dev/fb0 ]
	for i in 1 2 3; do
		tr '\0' '\021' </dev/zero | head -c $((1280 * 800 * 4)) >/dev/fb0 2>/dev/null || true
		sleep 1
	done
	# The cursor blinks, and a console writes its lines.
	host screen 17 17 17
	[ "$REPLY" -ge 90 ] || { echo "only $REPLY % of the display have the colour"; exit 1; }
}

balloon() {
	host balloon 960
	sleep 3
	host balloon 960
	[ "$REPLY" -le 970 ] || { echo "the balloon took nothing: $REPLY MiB"; exit 1; }
	host balloon 1024
	sleep 3
	host balloon 1024
	[ "$REPLY" = 1024 ] || { echo "the balloon gave nothing back: $REPLY MiB"; exit 1; }
}

# cost JOB WAY: one sample of fio, in MiB/s or IOPS.
cost() {
	local result rw bs depth
	rw=${1#*-}
	rw=${rw%-qd*}
	bs=${1%%-*}
	depth=${1##*-qd}
	set -- "$1" "$2" fio --name=job "--filename=/dev/$(disk_at 10.0)" --ioengine=libaio --direct=1 --thread \
		"--rw=$rw" "--bs=$bs" "--iodepth=$depth" --time_based --ramp_time=300ms --runtime=2 \
		--output-format=terse --output=/tmp/terse
	case $2 in
	observe) insmod /test/sluice.ko mode=observe devices=all ;;
	bounce*)
		virtio_disk unbind
		sluice devices=0000:00:10.0
		virtio_disk bind
		wait_for 10 [ -b "/dev/$(disk_at 10.0)" ]
		;;
	esac
	case $2 in
	observe | *-recorded)
		# Its command is everything behind the first two words.
		record "$@" 2>/tmp/record.err || { cat /tmp/record.err; exit 1; }
		host sample lost-"$1" "$2" "$(sed -n 's/.* events, \([0-9]*\) lost/\1/p' /tmp/record.err)"
		host sample events-"$1" "$2" "$(sed -n 's/.* \([0-9]*\) events.*/\1/p' /tmp/record.err)"
		;;
	*) plain "$@" ;;
	esac
	case $2 in bounce*) virtio_disk unbind ;; esac
	grep -q '^sluice ' /proc/modules && rmmod sluice
	case $2 in bounce*) virtio_disk bind ;; esac
	result=$(awk -F';' -v bs="$bs" '{ print bs == "4k" ? $8 + $49 : ($7 + $48) / 1024 }' /tmp/terse)
	host sample "$1" "$2" "$result"
}
record() {
	shift 2
	/test/sluice survey record --buffer 8192 -o /tmp/cost.sv -- "$@"
}
plain() {
	shift 2
	"$@"
}
virtio_disk() {
	local v
	v=$(ls -d /sys/bus/pci/devices/0000:00:10.0/virtio*)
	echo "${v##*/}" >/sys/bus/virtio/drivers/virtio_blk/"$1"
}

case $1 in
start) start ;;
blk-fio) disk "/dev/$(disk_at 10.0)" vdb ;;
blk-fs) files /mnt/root ;;
blk-pkg) packages ;;
scsi-fio) disk /dev/sda sda ;;
nvme-fio) disk /dev/nvme0n1 nvme ;;
net-*) network "${1#net-}" 2 ;;
e1000e-*) network "${1#e1000e-}" 3 ;;
9p)
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt/9
	host md5 payload
	[ "$(md5 /mnt/9/payload)" = "$REPLY" ]
	files /mnt/9
	umount /mnt/9
	;;
rng)
	dd if=/dev/hwrng of=/tmp/rng bs=1k count=16 iflag=fullblock 2>/dev/null
	[ "$(gzip -c /tmp/rng | wc -c)" -gt 16000 ]
	;;
console)
	round_trip "/dev/$(grep -lx line /sys/class/virtio-ports/*/name | cut -d/ -f5)" 262144
	round_trip /dev/hvc0 2000
	;;
gpu) gpu ;;
balloon) balloon ;;
cost) shift && cost "$@" ;;
*) echo "no such load: $1" && exit 1 ;;
esac
