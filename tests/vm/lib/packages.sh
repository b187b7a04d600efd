# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2034 # the lists are for those who source this
#
# packages.sh - install what is missing
#
# Theory of operation: a package counts as there when dpkg says so. apt is asked only when one is
# missing, so on a machine that has them all nothing here needs the network, root, or more than a
# few milliseconds. Recommended packages are left out: they would triple the download.

PKG_BUILD="gcc libc6-dev make git libseccomp-dev libcap-ng-dev libncurses-dev"
PKG_CHECK="clang libclang-rt-14-dev clang-format shellcheck libcmocka-dev spin scdoc curl"
PKG_MODULE="gcc-12 libelf1 xz-utils kmod"
PKG_VM="qemu-system-x86 qemu-system-common qemu-system-data seabios busybox-static fio e2fsprogs cpio
	xz-utils kmod"
PKG_VM_TEST="strace"
# Xen, its tools, and of the libraries those that have to be of the same build: see tests/xen/run.
PKG_XEN_UNPACKED="xen-hypervisor-4.17-amd64 xen-utils-4.17 libxenmisc4.17 libxenstore4 libxencall1 libxenevtchn1
	libxenforeignmemory1 libxengnttab1 libxentoolcore1 libxentoollog1 libxendevicemodel1
	libxenhypfs1 libyajl2"
PKG_SURVEY="mmdebstrap"
PKG_BENCH_POOL="gnuplot-nox libjemalloc2 libmimalloc2.0 dpkg xz-utils"
PKG_BENCH_RELAY="curl linux-perf"

# The distribution's name decides before anything else: the packages are Debian's by name.
packages_supported() {
	if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
		die "this needs Debian or Ubuntu (no apt-get here): on another system install a C" \
			"compiler, QEMU with qemu-storage-daemon, fio and busybox, and use make"
	fi
}

package_missing() {
	local p
	for p; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] ||
			printf '%s ' "$p"
	done
}

# apt_update: once a run at most.
apt_update() {
	[ -z "${APT_UPDATED:-}" ] || return 0
	as_root apt-get update -qq >&2 ||
		die "apt-get update failed: without network access the packages cannot be had"
	APT_UPDATED=1
}

# packages_need NAME...: afterwards they are installed.
packages_need() {
	local missing
	packages_supported
	# shellcheck disable=SC2048,SC2086 # lists of names
	missing=$(package_missing $*)
	[ -n "$missing" ] || return 0
	say "installing: $missing"
	apt_update
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		--no-install-recommends $missing >&2 ||
		die "apt-get could not install: $missing(no network access, or a release without" \
			"them: Debian 12 has them all)"
}
