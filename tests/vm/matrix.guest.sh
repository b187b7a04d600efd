# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# matrix.guest.sh - a disk, a file system and a network, each by a stock backend; no sluice.ko
# shellcheck source=guest/lib.sh
. /test/lib.sh

host no_net
no_net=$REPLY

# The disk: the same bytes on both sides, fio's verification, a file system made and checked.
check "disk: it appears" load virtio_pci virtio_blk
host same disk "$(md5 /dev/vda)"
check "disk: same bytes as the host has" [ "$REPLY" = same ]
check "disk: fio verifies 4 KiB random writes" fio_verify /dev/vda
check "disk: fio verifies odd sizes, 32 in flight" fio_verify /dev/vda --bsrange=512-256k \
	--bs_unaligned=0 --blockalign=512 --iodepth=32
check "disk: fio verifies 2 MiB at once" fio_verify /dev/vda --bs=2m --iodepth=2 --size=16m
echo "# its requests: $(cat /sys/block/vda/queue/max_segments) segments of $(cat /sys/block/vda/queue/max_segment_size)" >&8
check "disk: mkfs.ext4" mkfs.ext4 -q -F /dev/vda
check "disk: mount" mount -t ext4 /dev/vda /mnt
cp -r /test /mnt/copy
head -c 3000000 /dev/urandom >/mnt/file
before=$(md5 /mnt/file)
umount /mnt
check "disk: fsck.ext4" fsck.ext4 -f -n /dev/vda
mount -t ext4 /dev/vda /mnt
check "disk: the file reads back" [ "$(md5 /mnt/file)" = "$before" ]
umount /mnt
host same disk "$(md5 /dev/vda)"
check "disk: the host has the same bytes" [ "$REPLY" = same ]

# The file system: a repository of the host's is cloned within it.
check "fs: it mounts" sh -c 'modprobe virtiofs && mount -t virtiofs share /mnt'
# git upload-pack does not take this from the environment.
HOME=/tmp git config --global safe.directory "*"
check "fs: git clone" env HOME=/tmp \
	git clone -q --no-hardlinks /mnt/repository /mnt/clone
check "fs: same files" sh -c 'cd /mnt/repository && find . -name "file-*" -exec md5sum {} + |
	(cd /mnt/clone && md5sum -c -s)'
head -c 8000000 /dev/urandom >/mnt/written
host file_sum fs/written
check "fs: the host reads what was written" [ "$REPLY" = "$(md5 /mnt/written)" ]
host clone_is_good
check "fs: the host finds the clone whole ($REPLY)" [ "$REPLY" = good ]
umount /mnt

# The network: a file by TCP from a server beside the backend.
if [ "$no_net" != - ]; then
	skip "net: passt" "$no_net"
else
	load virtio_net
	ip addr add 169.254.2.1/16 dev eth0
	check "net: it comes up" ip link set eth0 up
	check "net: a file arrives" wait_for 20 wget -q -O /tmp/file http://169.254.2.2:8080/file
	host file_sum www/file
	check "net: and is the same" [ "$REPLY" = "$(md5 /tmp/file)" ]
fi
host alive
check "all backends and relays are alive" [ "$REPLY" = yes ]
