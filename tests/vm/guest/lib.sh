# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=dash
#
# lib.sh - what a test's guest half may call
#
# Theory of operation: results and requests go line by line to the host on file descriptor 8
# (ttyS1). Requests are synchronous: the host runs the function that the test's host half defines
# and answers with one line, its status and its output.

# The part of the test that this boot is for (vm_run -p), from the kernel's command line.
# shellcheck disable=SC2034 # for the test
PART=$(sed -n 's/.*\bpart=\([^ ]*\).*/\1/p' /proc/cmdline)
POOL=bar:0000:00:04.0/2
STATS=/sys/kernel/debug/sluice

ok() { echo "ok - $1" >&8; }
not_ok() { echo "not ok - $1: ${2:-}" | tr '\n' ' ' >&8; echo >&8; }
skip() { echo "ok - $1 # SKIP $2" >&8; }

# check NAME CMD...: one result, from the status of CMD. Its last line of output is the reason.
check() {
	local name="$1"
	shift
	if "$@" >/tmp/check.out 2>&1; then
		ok "$name"
	else
		not_ok "$name" "$(tail -n 3 /tmp/check.out)"
		cat /tmp/check.out
		return 1
	fi
}

# refuses NAME PATTERN CMD...: CMD fails, and it or the kernel says why.
refuses() {
	local name="$1" pattern="$2" before
	shift 2
	before=$(dmesg | wc -l)
	if "$@" >/tmp/check.out 2>&1; then
		not_ok "$name" "it was accepted"
		return 1
	fi
	dmesg | tail -n "+$((before + 1))" >>/tmp/check.out
	if grep -Eq -- "$pattern" /tmp/check.out; then
		ok "$name"
	else
		not_ok "$name" "refused, but without /$pattern/: $(tail -n 3 /tmp/check.out)"
	fi
}

# host NAME [ARG]...: have the host run host_NAME ARG...; sets REPLY, returns its status.
host() {
	local status
	echo "host $*" >&8
	read -r status REPLY <&8
	return "$status"
}

# host_check NAME REQUEST...: one result, from the status of the host's answer, which is said with it.
host_check() {
	local name="$1"
	shift
	if host "$@"; then
		ok "$name: $REPLY"
	else
		not_ok "$name" "$REPLY"
	fi
}

# load MODULE...: from the stock kernel; one that is built in is there already.
load() {
	local m
	for m; do
		modprobe -q "$m" || grep -q "/$m.ko" "/lib/modules/$(uname -r)/modules.builtin" ||
			return 1
	done
}

# sluice [PARAM]...: load the module, onto the harness's pool unless told otherwise.
sluice() {
	case " $* " in
	*" pool="*) insmod /test/sluice.ko "$@" ;;
	*) insmod /test/sluice.ko "pool=$POOL" "$@" ;;
	esac
}

# wait_for SECONDS CMD...: until CMD succeeds; three times that where the machine has no time for it.
wait_for() {
	local n=$(($1 * 30))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $((n -= 1)) -gt 0 ] || return 1
		usleep 100000
	done
}

# stat_of BDF NAME: a figure of the device's debugfs statistics.
stat_of() { sed -n "s/^$2[: ]*\([0-9]*\).*/\1/p" "$STATS/$1/stats"; }

# bounced BDF: whether the device's traffic went through the pool.
bounced() {
	cat "$STATS/$1/stats"
	[ "$(stat_of "$1" maps)" -gt 0 ]
}

# bdf_of DEVICE: the PCI function of a virtio device such as virtio0, or of a disk such as vda.
bdf_of() {
	local path
	case $1 in
	virtio*) path=$(readlink -f "/sys/bus/virtio/devices/$1") ;;
	*) path=$(readlink -f "/sys/class/block/$1/device") ;;
	esac
	echo "$path" | grep -Eo '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9]' | tail -n 1
}

md5() { md5sum "$1" | cut -d' ' -f1; }

# fio_verify FILE OPTION...: write and verify; fio fails on the first byte that differs.
fio_verify() {
	local file="$1"
	shift
	fio --name=verify "--filename=$file" --ioengine=libaio --direct=1 --thread --rw=randwrite \
		--bs=4k --iodepth=16 --size=8m --verify=crc32c --verify_fatal=1 --do_verify=1 \
		--randrepeat=0 "$@"
}
