#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/survey.sh - the DMA of virtio devices, nvme and e1000e: record, report, docs/SURVEY.md
#
# Theory of operation: a guest has one of each device and runs the same loads (survey.work.sh), each
# recorded into a stream of its own. Two boots a kernel: "observe", in which nothing is confined and
# sluice.ko only looks on, which is where all figures come from; and "bounce", in which all go
# through a pool, which is the only way to see what a device wrote. A third, "cost", runs fio with
# and without the recorder, in turns. Streams and pages go to build/survey; with -d the figures
# replace those between the marks in docs/SURVEY.md, and short pieces of the streams those in
# docs/survey.
#
# The disk that the guest uses as its root is a Debian of essential packages, made once (into the
# cache); the packages that are installed in it are Debian's, too.
#
# usage: bench/survey.sh [-d] [-k SERIES]... [PART]...
set -u
bench=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/lib/all.sh
. "$bench/../tests/vm/lib/all.sh"

PACKAGES="less nano libncursesw6 file libmagic1 libmagic-mgc bzip2 xz-utils vim-common vim-tiny"
IMAGE_MODULES="$IMAGE_MODULES nvme e1000e virtio-gpu"
OUT=$ROOT/build/survey
ROUNDS=${SLUICE_SURVEY_ROUNDS:-5}
series=()
docs=
while getopts dk: o; do
	case $o in
	d) docs=1 ;;
	k) series+=("$OPTARG") ;;
	*) die "usage: bench/survey.sh [-d] [-k SERIES]... [observe|bounce|cost]..." ;;
	esac
done
shift $((OPTIND - 1))
[ ${#series[@]} -gt 0 ] || series=(6.1 6.12)
[ $# -gt 0 ] || set -- observe bounce cost

# root_image: print the name of an ext4 image of that Debian, with the packages in /pkg.
root_image() {
	local out work
	out=$CACHE/survey/root-$(echo "$PACKAGES" | md5sum | cut -c1-8).ext4
	if [ ! -e "$out" ]; then
		say "making a root file system of Debian's essential packages (once, into $CACHE)"
		work=$(mktemp -d)
		mkdir -p "$work/root" "$work/pkg" "$(dirname "$out")"
		as_root mmdebstrap --quiet --variant=essential bookworm "$work/root.tar" >&2 ||
			die "mmdebstrap failed: it needs network access, and root or unprivileged" \
				"user namespaces"
		# shellcheck disable=SC2086 # a list of names
		(cd "$work/pkg" && apt-get download -qq -o APT::Sandbox::User=root $PACKAGES) >&2 ||
			die "apt-get could not download $PACKAGES: try apt-get update"
		as_root tar -C "$work/root" -xf "$work/root.tar"
		as_root cp -r "$work/pkg" "$work/root/pkg"
		truncate -s 640M "$work/ext4"
		as_root mke2fs -q -t ext4 -d "$work/root" "$work/ext4" ||
			die "mke2fs could not fill the image: is the disk full?"
		as_root mv "$work/ext4" "$out"
		as_root rm -rf "$work"
	fi
	echo "$out"
}

# What the guest asks for.
# shellcheck source=/dev/null
. "$ROOT/tests/vm/devices.sh"
host_rounds() { echo "$ROUNDS"; }
host_sample() { echo "$SERIES,$*" | tr ' ' , >>"$OUT/cost.csv"; }
host_keep() { cp "$VM_DIR/share/$1" "$OUT/$SERIES-$PART-$1"; }
# host_screen R G B: how many percent of the display's pixels are of that colour.
host_screen() {
	vm_hmp "screendump $VM_DIR/screen"
	sleep 1
	tail -c +17 "$VM_DIR/screen" | od -An -v -tu1 -w3 | awk -v want="$*" '
		{ n++; $1 = $1; if ($0 == want) k++ } END { printf "%d\n", n ? 100 * k / n : 0 }'
}

# boot PART
boot() {
	local modern=disable-legacy=on,iommu_platform=on
	PART=$1
	mkdir -p "$VM_DIR/share"
	head -c 16777216 /dev/urandom >"$VM_DIR/share/payload"
	printf '#!/bin/sh\nexec cat %s/share/payload\n' "$VM_DIR" >"$VM_DIR/send"
	printf '#!/bin/sh\nexec cat >%s/received\n' "$VM_DIR" >"$VM_DIR/receive"
	printf '#!/bin/sh\nexec cat\n' >"$VM_DIR/echo"
	chmod +x "$VM_DIR"/{send,receive,echo}
	cp --sparse=always "$(root_image)" "$VM_DIR/vda"
	disk_create "$VM_DIR/vdb" 64M
	disk_create "$VM_DIR/sda" 64M
	disk_create "$VM_DIR/nvme" 64M
	echo_port port
	echo_port hvc
	pool_create survey 64M
	# net SUBNET: a network of QEMU's own, with programs of ours at ports 1 to 3.
	net() {
		local i=1 p options="user,id=net$1,net=10.0.$1.0/24,restrict=on"
		for p in send receive echo; do
			options+=",guestfwd=tcp:10.0.$1.100:$i-cmd:$VM_DIR/$p"
			i=$((i + 1))
		done
		echo "$options"
	}
	# shellcheck disable=SC2034 # for vm_start
	VM_FILES="$ROOT/build/static/sluice sluice $bench/survey.work.sh work.sh"
	# shellcheck disable=SC2046 # options
	VM_MEMORY=1024 VM_TIMEOUT=900 vm_run -p "$PART" $(pool_options) \
		-drive "if=none,id=vda,format=raw,file=$VM_DIR/vda" \
		-device "virtio-blk-pci,drive=vda,addr=05.0,$modern" \
		-drive "if=none,id=vdb,format=raw,file=$VM_DIR/vdb" \
		-device "virtio-blk-pci,drive=vdb,addr=10.0,$modern" \
		-netdev "$(net 2)" \
		-device "virtio-net-pci,netdev=net2,romfile=,addr=06.0,$modern" \
		-netdev "$(net 3)" -device e1000e,netdev=net3,romfile=,addr=0f.0 \
		-device "virtio-scsi-pci,id=scsi,addr=07.0,$modern" \
		-drive "if=none,id=sda,format=raw,file=$VM_DIR/sda" -device scsi-hd,drive=sda \
		-drive "if=none,id=nvme,format=raw,file=$VM_DIR/nvme" \
		-device nvme,drive=nvme,serial=1,addr=0e.0 \
		-device "virtio-rng-pci,addr=08.0,$modern" \
		-device "virtio-serial-pci,addr=09.0,$modern" \
		-chardev "pipe,id=port,path=$VM_DIR/port" \
		-device virtserialport,chardev=port,name=line \
		-chardev "pipe,id=hvc,path=$VM_DIR/hvc" -device virtconsole,chardev=hvc \
		-device virtio-balloon-pci,disable-legacy=on,addr=0a.0 \
		-device "virtio-gpu-pci,id=gpu,addr=0c.0,$modern" \
		-fsdev "local,id=share,path=$VM_DIR/share,security_model=none" \
		-device "virtio-9p-pci,fsdev=share,mount_tag=share,addr=0b.0,$modern"
}

# One boot in a subshell, so that its files go whatever happens.
one() {
	TAP_PREFIX="$2 on $1: "
	SERIES=$1
	KERNEL=$(kernel_get "$1") && ACCEL=$(accel_options "$KERNEL") &&
		MODULE=$(kernel_module "$KERNEL") || exit 1
	GUEST=$bench/survey.guest.sh
	VM_DIR=$(mktemp -d "${TMPDIR:-/tmp}/sluice-survey.XXXXXX") || exit 1
	VM_PID=
	trap 'vm_kill; peers_stop
		rm -rf "$VM_DIR"' EXIT
	boot "$2"
}

make_in_turn -s all static || die "it does not build"
mkdir -p "$OUT"
root_image >/dev/null
tap=$(mktemp)
trap 'rm -f "$tap"' EXIT
for part; do
	[ "$part" != cost ] || echo "series,job,way,value" >"$OUT/cost.csv"
	for s in "${series[@]}"; do
		say "$part on $s"
		(one "$s" "$part") 2>&1 | tee -a "$tap" | grep -v '^ok'
	done
done
tap_count "$tap" || die "a load failed or its data differed: see above"
[ -z "$docs" ] || "$bench/survey-docs.sh"
for f in "$OUT"/*.sv; do
	"$ROOT/build/sluice" survey report --html "${f%.sv}.html" "$f" >"${f%.sv}.txt" || exit 1
done
echo "Streams, reports and pages: $OUT"
