# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# viommu.guest.sh - no driver of the kernel's: a program in user space drives QEMU's virtio-iommu
# shellcheck source=guest/lib.sh
. /test/lib.sh

echo 2 >/proc/sys/vm/nr_hugepages
/test/viommu 0000:00:05.0 0000:00:06.0 >/tmp/tap 2>&1
status=$?
cat /tmp/tap >&8
[ $status -le 1 ] || not_ok "the program ran to its end" "status $status"
