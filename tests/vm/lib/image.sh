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
# costs seconds.
#
# Of the libraries that fio is linked to, those for storage clusters and remote memory are 75 MB with what they
# need, and under TCG every start of fio would spend half a second on them. No guest has a use for
# them: one library that has their functions by name, each of which would be a crash, stands in for them all.

IMAGE_PROGRAMS="/bin/busybox /usr/bin/fio /sbin/mke2fs /sbin/e2fsck /usr/bin/git"
FIO_LIBRARIES="^(libc|libm|libz|libaio|libnuma)\\.so" # those that stay
IMAGE_MODULES="virtio_pci virtio_blk virtio_net virtio_scsi sd_mod virtio-rng virtio_console
	virtio_balloon 9p 9pnet_virtio virtiofs vmw_vsock_virtio_transport ext4 crc32c_generic button evdev"

# image_pack DIR FILE: archive DIR, all owned by root; whole or not at all.
image_pack() {
	mkdir -p "$(dirname "$2")"
	(cd "$1" && find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet) >"$2.$$" && mv "$2.$$" "$2"
}

# image_fio ROOT: put the library there that stands in for those of fio's that do not stay.
image_fio() {
	local work path paths
	paths=$(ldd /usr/bin/fio | awk -v stay="$FIO_LIBRARIES" 'NR == FNR { needed[$0]; next }
		($1 in needed) && $1 !~ stay { print $3 }' <(image_needed /usr/bin/fio) -)
	[ -n "$paths" ] || return 0
	work=$(mktemp -d) || return 1
	# What it wants, with its version, of what they have.
	for path in $paths; do
		nm -D --defined-only "$path"
	done | awk -v folder="$work" '
		{ split($NF, name, "@") }
		NR == FNR { has[name[1]]; next }
		!(name[1] in has) { next }
		{ print "void " name[1] "(void) { __builtin_trap(); }" }
		name[2] { of[name[2]] = of[name[2]] name[1] ";" }
		END {
			printf "" >folder "/versions"
			for (version in of)
				print version " {" of[version] "};" >folder "/versions"
		}' - <(nm -D --undefined-only /usr/bin/fio) >"$work/names.c" &&
		gcc -w -fno-builtin -fPIC -shared -nostdlib "-Wl,--version-script=$work/versions" \
			-o "$1/fio.so" "$work/names.c" || return 1
	rm -rf "$work"
	for path in $paths; do
		mkdir -p "$1$(dirname "$path")" && ln -s /fio.so "$1$path" || return 1
	done
}

# image_needed PROGRAM: the libraries that it names itself.
image_needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# image_files: all that is copied from here: the programs, and the libraries that they load.
image_files() {
	local f of
	# shellcheck disable=SC2086 # a list of names
	for f in $IMAGE_PROGRAMS; do
		echo "$f"
		case $f in
		*/fio) of=$(ldd "$f" | awk -v stay="$FIO_LIBRARIES" '$1 ~ stay { print $3 }') ;;
		*) of=$f ;;
		esac
		echo "$of" | xargs -n 1 ldd 2>/dev/null | grep -o "/[^ )]*"
		[ "$of" = "$f" ] || echo "$of"
	done | sort -u
}

# image_base: print the archive's name. Its key is what goes in, so an upgraded fio is noticed, and how.
image_base() {
	local files f key out work
	files=$(image_files)
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
		image_fio "$work" || die "no library can be made for fio in the guests: see above"
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
