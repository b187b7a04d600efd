# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# kernels.sh - stock Debian kernels and their headers, unpacked and not installed
#
# Theory of operation: kernel_get SERIES (6.1, 6.12) finds the newest signed amd64 image of that
# series that apt knows, downloads it with the headers that belong to it and unpacks all of it into
#
#	$CACHE/kernels/VERSION/		boot/vmlinuz-*, lib/modules/*, usr/src/*, usr/lib/*
#	$CACHE/kernels/SERIES		a link to it, made last: where it exists, all is there
#
# The generic flavour is used throughout: the cloud flavour is smaller but has neither 9p nor
# e1000e, and it starts hardly faster. What is cached stays; remove .cache/kernels for a newer one.
#
# In the headers one path is absolute, the include in the flavour's Makefile; it is made relative
# to itself, so that the cache may be moved.

# kernel_package SERIES: print the newest image package of it, or nothing.
kernel_package() {
	local series=${1//./\\.} p
	apt-cache pkgnames linux-image- |
		grep -E "^linux-image-$series\.[0-9]+[^-]*(-[0-9]+)?-amd64\$" | sort -rV |
		while read -r p; do
			if apt-cache show "$p" >/dev/null 2>&1; then
				printf '%s\n' "$p"
				break
			fi
		done
}

# kernel_header_packages VERSION: the flavour's headers and what of linux-* they depend on.
kernel_header_packages() {
	printf 'linux-headers-%s\n' "$1"
	apt-cache depends "linux-headers-$1" |
		sed -n 's/^ *Depends: \(linux-headers-.*-common\|linux-kbuild-.*\)$/\1/p'
}

# kernel_get SERIES: print the folder of that kernel; download it first where needed.
kernel_get() {
	local series=$1 package version work deb
	if [ ! -e "$CACHE/kernels/$series" ]; then
		packages_supported
		package=$(kernel_package "$series")
		if [ -z "$package" ]; then
			apt_update
			package=$(kernel_package "$series")
		fi
		[ -n "$package" ] || die "apt knows no linux-image-$series.*-amd64: Debian 12 has it in" \
			"main (6.1) or in bookworm-security (6.12); add that to the sources"
		version=${package#linux-image-}
		say "downloading the stock kernel $version and its headers (once, into $CACHE)"
		work=$CACHE/kernels/unpack.$$
		mkdir -p "$work"
		(
			cd "$work" || exit 1
			# shellcheck disable=SC2046 # a list of names
			apt-get download -qq -o APT::Sandbox::User=root "$package" \
				$(kernel_header_packages "$version") >&2
		) || die "apt-get could not download $package and its headers: no network access, or" \
			"package lists out of date (apt-get update)"
		for deb in "$work"/*.deb; do
			dpkg-deb -x "$deb" "$work" || die "$deb is damaged: remove it and try again"
			rm "$deb"
		done
		# Debian 13 and later keep modules below /usr/lib.
		[ -e "$work/lib/modules" ] || ln -s usr/lib "$work/lib"
		# shellcheck disable=SC2016 # for make to expand
		sed -i 's|^include /usr/src/\(.*\)/Makefile|include $(realpath $(dir $(lastword $(MAKEFILE_LIST)))/../\1)/Makefile|' \
			"$work/usr/src/linux-headers-$version/Makefile"
		/sbin/depmod -b "$work" "$version"
		rm -rf "$CACHE/kernels/$version"
		mv "$work" "$CACHE/kernels/$version"
		ln -sfn "$version" "$CACHE/kernels/$series"
	fi
	readlink -f "$CACHE/kernels/$series"
}

# kernel_version DIR: what uname -r says under it.
kernel_version() { basename "$1"; }
kernel_image() { printf '%s/boot/vmlinuz-%s\n' "$1" "$(kernel_version "$1")"; }
kernel_headers() { printf '%s/usr/src/linux-headers-%s\n' "$1" "$(kernel_version "$1")"; }

# kernel_module DIR: build sluice.ko for that kernel and print where it is. The result is taken
# from the folder that is its own, as module/sluice.ko is whatever was built last.
kernel_module() {
	local version log
	version=$(kernel_version "$1")
	log=$ROOT/build/logs/module-$version.log
	mkdir -p "$ROOT/build/logs"
	if ! make_in_turn "-j$(nproc)" module KDIR="$(kernel_headers "$1")" KCFLAGS=-g0 >"$log" 2>&1; then
		tail -20 "$log" >&2
		say "error: sluice.ko does not build for $version; the whole log is $log"
		return 1
	fi
	printf '%s/build/module/linux-headers-%s/sluice.ko\n' "$ROOT" "$version"
}

# test_module FOLDER KERNEL FILE...: build a test's own module out of these files, of which one is its Kbuild, in
# build/FOLDER/VERSION. Prints where the module is, which is named as FOLDER's last part.
test_module() {
	local name=${1##*/} dir kernel=$2
	dir=$ROOT/build/$1/$(kernel_version "$kernel")
	shift 2
	mkdir -p "$dir"
	cp -u "$@" "$dir/"
	make -C "$(kernel_headers "$kernel")" "M=$dir" CONFIG_DEBUG_INFO_BTF_MODULES= modules >"$dir/log" 2>&1 || {
		tail -n 20 "$dir/log" >&2
		say "error: $name.ko does not build for $(kernel_version "$kernel"); the whole log is $dir/log"
		return 1
	}
	printf '%s\n' "$dir/$name.ko"
}
