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
# Of libvirt what runs a QEMU; unpacked, with what apt would install with it: see lib/libvirt.sh.
PKG_LIBVIRT="libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients"
PKG_SURVEY="mmdebstrap"
# DPDK's testpmd (in dpdk-dev) with what it is linked to, and the drivers that are used; unpacked.
PKG_TESTPMD="dpdk-dev ibverbs-providers libbsd0 libc6 libcap2 libdbus-1-3 libelf1 libfdt1 libgcrypt20 libgpg-error0
	libibverbs1 libjansson4 liblz4-1 liblzma5 libmd0 libnl-3-200 libnl-route-3-200 libnuma1 libpcap0.8 libsystemd0
	libzstd1 zlib1g
	librte-bitratestats23 librte-bpf23 librte-bus-auxiliary23 librte-bus-dpaa23 librte-bus-pci23 librte-bus-vdev23
	librte-cmdline23 librte-common-dpaax23 librte-common-iavf23 librte-common-mlx5-23 librte-crypto-scheduler23
	librte-cryptodev23 librte-dmadev23 librte-eal23 librte-ethdev23 librte-eventdev23 librte-gro23 librte-gso23
	librte-hash23 librte-ip-frag23 librte-kvargs23 librte-latencystats23 librte-mbuf23 librte-mempool-dpaa23
	librte-mempool-ring23 librte-mempool23 librte-meter23 librte-metrics23 librte-net-bnxt23 librte-net-bond23
	librte-net-dpaa23 librte-net-i40e23 librte-net-ice23 librte-net-ixgbe23 librte-net-mlx5-23 librte-net-pcap23
	librte-net-vhost23 librte-net-virtio23 librte-net23 librte-pcapng23 librte-pci23 librte-pdump23 librte-rcu23
	librte-reorder23 librte-ring23 librte-sched23 librte-security23 librte-telemetry23 librte-timer23 librte-vhost23"
# Open vSwitch with DPDK, besides what testpmd needs; unpacked.
PKG_OVS="openvswitch-switch-dpdk openvswitch-switch openvswitch-common libbpf1 libxdp1 libunbound8 libevent-2.1-7
	libssl3"
PKG_BENCH_POOL="gnuplot-nox libjemalloc2 libmimalloc2.0 dpkg xz-utils"
PKG_BENCH_RELAY="curl linux-perf"

# The distribution's name decides before anything else: the packages are Debian's by name.
packages_supported() {
	if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
		die "this needs Debian or Ubuntu (no apt-get here): on another system install a C" \
			"compiler, QEMU with qemu-storage-daemon, fio and busybox, and use make"
	fi
}

# By one question for all: a question takes as long as a small test.
package_missing() {
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
		awk -v names="$*" '
			$1 == "installed" { here[$2] }
			END {
				n = split(names, name, " ")
				for (i = 1; i <= n; i++)
					if (!(name[i] in here))
						printf "%s ", name[i]
			}'
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
