# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# image.sh - the guest's initramfs
#
# Theory of operation: Linux accepts several cpio archives one after the other, so an initramfs is
# three parts, of which two are made once and kept:
#
#	base	busybox, fio, git and e2fsprogs with their libraries	(this host's packages)
#	modules	the kernel modules the tests use		(one archive a kernel)
#	test	init, the guest's library, one test, sluice.ko	(made for each boot)
#
# Nothing is compressed: QEMU hands the archive over in one copy, while unpacking gzip under TCG
# costs seconds. fio brings 80 MB of libraries with it; uncompressed that is one second of a boot,
# less than a second image would cost in complexity.

IMAGE_PROGRAMS="/bin/busybox /usr/bin/fio /sbin/mke2fs /sbin/e2fsck /usr/bin/git"
IMAGE_MODULES="virtio_pci virtio_blk virtio_net virtio_scsi sd_mod virtio-rng virtio_console
	virtio_balloon 9p 9pnet_virtio virtiofs ext4 crc32c_generic"

# image_pack DIR FILE: archive DIR, all owned by root; whole or not at all.
image_pack() {
	mkdir -p "$(dirname "$2")"
	(cd "$1" && find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet) >"$2.$$" && mv "$2.$$" "$2"
}

# image_base: print the archive's name. Its key is what goes in, so an upgraded fio is noticed, and how.
image_base() {
	local files f key out work
	# shellcheck disable=SC2086 # a list of names
	files=$(for f in $IMAGE_PROGRAMS; do
		echo "$f"
		ldd "$f" 2>/dev/null | grep -o '/[^ )]*'
	done | sort -u)
	# shellcheck disable=SC2086
	key=$(stat -L -c "%n %s %Y" $files "$ROOT/tests/vm/lib/image.sh" | md5sum | cut -c1-12)
	out=$CACHE/image/base-$key.cpio
	if [ ! -e "$out" ]; then
		work=$(mktemp -d)
		mkdir -p "$work"/{bin,dev,proc,sys,tmp,mnt,root}
		for f in $files; do
			mkdir -p "$work$(dirname "$f")"
			cp -L "$f" "$work$f"
		done
		ln -s git "$work/usr/bin/git-upload-pack"
		ln -s mke2fs "$work/sbin/mkfs.ext4"
		ln -s e2fsck "$work/sbin/fsck.ext4"
		# e2fsprogs looks mounted file systems up there.
		mkdir -p "$work/etc"
		ln -s /proc/mounts "$work/etc/mtab"
		rm -f "$CACHE"/image/base-*.cpio
		image_pack "$work" "$out" || die "cannot write $out: is the disk full?"
		rm -rf "$work"
	fi
	echo "$out"
}

# image_modules DIR: print the archive's name; DIR is a kernel's folder. What is built into this
# kernel is not in its list of modules, and modprobe in the guest knows that from modules.builtin.
image_modules() {
	local version out work m f
	version=$(kernel_version "$1")
	out=$CACHE/image/modules-$version-$(echo "$IMAGE_MODULES" | md5sum | cut -c1-8).cpio
	if [ ! -e "$out" ]; then
		work=$(mktemp -d)
		for m in $IMAGE_MODULES; do
			/sbin/modprobe -d "$1" -S "$version" --show-depends "$m" |
				sed -n 's/^insmod \([^ ]*\).*/\1/p'
		done | sort -u | while read -r f; do
			m=$work/lib/modules/$version/$(basename "${f%.xz}")
			mkdir -p "$(dirname "$m")"
			case $f in
			*.xz) xz -dc "$f" >"$m" ;;
			*) cp "$f" "$m" ;;
			esac
		done
		cp "$1/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$work/lib/modules/$version/"
		/sbin/depmod -b "$work" "$version"
		image_pack "$work" "$out" || die "cannot write $out: is the disk full?"
		rm -rf "$work"
	fi
	echo "$out"
}

# image_build DIR OUT [FILE NAME]...: the whole initramfs for the kernel in DIR, with each FILE
# as /test/NAME.
image_build() {
	local kernel=$1 out=$2 work base modules
	shift 2
	base=$(image_base) && modules=$(image_modules "$kernel") || exit 1
	work=$(mktemp -d)
	mkdir "$work/test"
	cp "$ROOT/tests/vm/guest/init" "$work/init"
	cp "$ROOT/tests/vm/guest/lib.sh" "$work/test/lib.sh"
	chmod 755 "$work/init"
	while [ $# -ge 2 ]; do
		cp "$1" "$work/test/$2"
		shift 2
	done
	image_pack "$work" "$work.cpio"
	cat "$base" "$modules" "$work.cpio" >"$out" || die "cannot write $out: is the disk full?"
	rm -rf "$work" "$work.cpio"
}
