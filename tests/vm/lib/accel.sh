# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# accel.sh - KVM where it works, TCG otherwise
#
# Theory of operation: /dev/kvm can exist and still not run a stock kernel (some nested
# set-ups fault or spin in the firmware), so the file says nothing. A kernel with an initramfs that
# powers off at once is booted under KVM with a time limit; the answer is cached for this boot of
# this machine. SLUICE_ACCEL=kvm|tcg overrides.

# accel_options DIR: print QEMU's options; DIR is a kernel's folder.
accel_options() {
	local answer=${SLUICE_ACCEL:-} note
	note=$CACHE/accel-$(cat /proc/sys/kernel/random/boot_id)
	[ -n "$answer" ] || answer=$(cat "$note" 2>/dev/null)
	if [ -z "$answer" ]; then
		answer=tcg
		if [ -w /dev/kvm ] && accel_probe "$1"; then
			answer=kvm
		fi
		mkdir -p "$CACHE"
		rm -f "$CACHE"/accel-*
		echo "$answer" >"$note"
	fi
	case $answer in
	kvm) echo "-accel kvm -cpu host" ;;
	# One translation buffer for all, large enough that nothing is translated twice.
	tcg) echo "-accel tcg,thread=multi,tb-size=256 -cpu max" ;;
	*) die "SLUICE_ACCEL is '$answer': it can be kvm or tcg" ;;
	esac
}

accel_probe() {
	local work status
	say "trying KVM (10 s at most) ..."
	work=$(mktemp -d) || return 1
	mkdir "$work/root"
	cp /bin/busybox "$work/root/busybox"
	printf '#!/busybox sh\n/busybox echo VM-DONE\n/busybox poweroff -f\n' >"$work/root/init"
	chmod +x "$work/root/init"
	(cd "$work/root" && printf 'init\nbusybox\n' | cpio -o -H newc --quiet >../initrd)
	timeout -k 1 10 qemu-system-x86_64 -M pc -accel kvm -cpu host -m 256 -nodefaults \
		-display none -no-reboot -bios qboot.rom -serial "file:$work/console" \
		-kernel "$(kernel_image "$1")" -initrd "$work/initrd" \
		-append "console=ttyS0 quiet panic=-1" >/dev/null 2>&1 </dev/null
	grep -qs VM-DONE "$work/console"
	status=$?
	rm -rf "$work"
	return $status
}
