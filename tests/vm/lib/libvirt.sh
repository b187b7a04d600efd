# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2034 # what is set is for those who source this
#
# libvirt.sh - Debian's libvirt, unpacked and not installed, and a guest that it runs
#
# Theory of operation: libvirt has its paths compiled in, wants a user for its QEMUs, and changes the owners of files.
# So it gets a root of its own: an overlay over this machine's, whose upper layer is in memory, with the packages unpacked into
# it as apt would. libvirtd runs there as root (qemu:///system), in mount, network, IPC and process namespaces, so that it
# finds no network to change and no cgroup, and everything that it started ends when its namespace's first
# process does (that is a shell, because somebody has to collect what libvirt daemonizes). Of this machine only VM_DIR
# is the same inside. There is no /dev/kvm: its presence is what libvirt goes by, and it says nothing (accel.sh). So such
# a guest runs under TCG, whatever SLUICE_ACCEL says.
#
# Needs root. vm_serve (vm.sh) serves a guest of libvirt's as any other: the line to it is a pipe again.

LIBVIRT=		# the process namespace's first process
LIBVIRT_QEMU_GID=	# the group that libvirt runs QEMU with
LIBVIRT_SOCKET=		# where another libvirt finds it
LIBVIRT_UUID=$(cat /proc/sys/kernel/random/uuid) # of the one domain, however often it is defined

# libvirt_missing: why it cannot be had, or nothing.
libvirt_missing() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "libvirt's qemu:///system and its users need root"
	elif ! unshare -mnip --fork --kill-child true 2>/dev/null; then
		echo "no namespaces can be made here (unshare -mnip)"
	elif ! grep -qw overlay /proc/filesystems && ! modprobe -q overlay 2>/dev/null; then
		echo "this kernel has no overlay file system"
	fi
}

# libvirt_get: print the folder with what apt would install of it here; download it first where needed.
libvirt_get() {
	local list dir work
	packages_supported
	# shellcheck disable=SC2086 # a list of names
	list=$(apt-get install -s --no-install-recommends $PKG_LIBVIRT 2>/dev/null | awk '$1 == "Inst" { print $2 }')
	if [ -z "$list" ] && [ ! -x /usr/sbin/libvirtd ]; then
		apt_update
		# shellcheck disable=SC2086
		list=$(apt-get install -s --no-install-recommends $PKG_LIBVIRT | awk '$1 == "Inst" { print $2 }')
		[ -n "$list" ] || die "apt knows no $PKG_LIBVIRT: Debian 12 has them in main"
	fi
	dir=$CACHE/libvirt/$(md5sum <<<"$list" | cut -c1-12)
	if [ ! -e "$dir" ]; then
		say "downloading" "${list//$'\n'/ }" "(once, into $CACHE)"
		mkdir -p "$CACHE/libvirt"
		work=$(mktemp -d "$CACHE/libvirt/unpack.XXXXXX")
		# shellcheck disable=SC2086
		[ -z "$list" ] || (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root $list >&2) ||
			die "apt-get could not download $list: no network access, or package lists out of" \
				"date (apt-get update)"
		debs_unpack "$work" "$dir"
	fi
	readlink -f "$dir"
}

# libvirt_start [FOLDER]...: start it, with these folders of unpacked packages (another QEMU) as well. Who needs a second
# one starts it again, and has kept LIBVIRT: it says which is meant.
libvirt_start() {
	local dir run n=300
	dir=$(libvirt_get) || exit 1
	chmod 711 "$VM_DIR"
	mkdir -p "$VM_DIR/libvirt"
	run=$(mktemp -d "$VM_DIR/libvirtd.XXXXXX")
	chmod 755 "$run"
	LIBVIRT_SOCKET=$run/libvirt-sock
	# shellcheck disable=SC2016 # for that shell
	unshare -mnip --fork --kill-child bash -c '
		set -e
		own=$1/libvirt root=$1/libvirt/root
		mount -t tmpfs -o mode=755 none "$own"
		mkdir "$own"/{up,work,root}
		mount -t overlay -o "lowerdir=/,upperdir=$own/up,workdir=$own/work" none "$root"
		for packages in "${@:3}"; do
			# As an upgrade would: one module of another build, and QEMU aborts.
			[ ! -e "$packages/usr/lib/x86_64-linux-gnu/qemu" ] || rm -rf "$root/usr/lib/x86_64-linux-gnu/qemu"
			tar -C "$packages" -c . | tar -C "$root" -x --keep-directory-symlink --no-overwrite-dir --exclude=./usr/share/doc
		done
		mount -t proc none "$root/proc"
		mount -t sysfs none "$root/sys"
		mount -t tmpfs -o mode=755 none "$root/run"
		mkdir "$root/run/libvirt"
		mount --bind "$2" "$root/run/libvirt"
		mount -t tmpfs -o mode=755 none "$root/dev"
		for device in null zero full random urandom tty; do
			cp -a "/dev/$device" "$root/dev/"
		done
		mkdir -p "$root"/dev/{shm,pts} "$root$1"
		mount -t devpts -o newinstance,ptmxmode=666 none "$root/dev/pts"
		ln -s pts/ptmx "$root/dev/ptmx"
		mount --bind "$1" "$root$1"
		mkdir -p "$root/etc/libvirt"
		# No virtlogd, and no notes in attributes of files that two of them may share.
		printf "%s\n" "stdio_handler = \"file\"" "remember_owner = 0" >"$root/etc/libvirt/qemu.conf"
		chroot "$root" sh -c "getent passwd libvirt-qemu >/dev/null ||
			useradd -r -U -d /var/lib/libvirt -s /usr/sbin/nologin libvirt-qemu"
		exec chroot "$root" bash -c "libvirtd & wait"' libvirt "$VM_DIR" "$run" "$dir" "$@" >>"$VM_DIR/libvirtd.log" 2>&1 </dev/null &
	PEERS+=($!)
	until LIBVIRT=$(cat "/proc/$!/task/$!/children" 2>/dev/null) && libvirt_do virsh -q list >/dev/null 2>&1; do
		{ alive $! && [ $((n -= 1)) -gt 0 ]; } ||
			die "libvirtd did not start: $(tail -n 3 "$VM_DIR/libvirtd.log")"
		sleep 0.1
	done
	LIBVIRT_QEMU_GID=$(libvirt_do id -g libvirt-qemu)
}

# libvirt_do COMMAND...: run it where libvirt is, for a minute at most.
libvirt_do() { timeout 60 nsenter -t "${LIBVIRT%% *}" -m -n -i -p -r -w "$@"; }
virsh() { libvirt_do virsh -q "$@"; }

# libvirt_domain NAME PART: print a domain's XML without its end, for the caller to add devices to.
libvirt_domain() {
	cat <<END
<domain type='qemu'>
  <name>$1</name>
  <uuid>$LIBVIRT_UUID</uuid>
  <memory unit='MiB'>$VM_MEMORY</memory>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$VM_DIR/vmlinuz</kernel>
    <initrd>$VM_DIR/initrd</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 oops=panic sysrq_always_enabled maxcpus=1 part=$2 $VM_APPEND</cmdline>
  </os>
  <features>
    <acpi/>
    <tcg><tb-cache unit='MiB'>256</tb-cache></tcg>
  </features>
  <cpu mode='maximum'/>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='$VM_DIR/console-$2'/><target port='0'/></serial>
    <serial type='pipe'><source path='$VM_DIR/line'/><target port='1'/></serial>
END
}

# libvirt_files: what the domain's XML names, as copies: libvirt changes their owners.
libvirt_files() {
	# shellcheck disable=SC2086 # VM_FILES is a list
	[ -e "$VM_DIR/initrd" ] || image_build "$KERNEL" "$VM_DIR/initrd" "$GUEST" guest.sh ${VM_FILES:-}
	cp "$(kernel_image "$KERNEL")" "$VM_DIR/vmlinuz"
}

# libvirt_line PART: the guest's line, as vm_start makes it.
libvirt_line() {
	rm -f "$VM_DIR"/line.{in,out}
	mkfifo "$VM_DIR"/line.{in,out}
	VM_CONSOLE=$VM_DIR/console-$1
	: >"$VM_DIR/qemu.log"
	exec {VM_IN}<>"$VM_DIR/line.in" {VM_OUT}<>"$VM_DIR/line.out" {VM_MON}<>/dev/null {VM_MON_OUT}<>/dev/null
}

# libvirt_pid NAME: set VM_PID to the process of that domain, as it is numbered out here.
libvirt_pid() {
	local inner file space
	inner=$(libvirt_do cat "/run/libvirt/qemu/$1.pid") || return 1
	space=$(readlink "/proc/${LIBVIRT%% *}/ns/pid")
	for file in /proc/[0-9]*/status; do
		grep -qs "^NSpid:.*[[:space:]]$inner\$" "$file" || continue
		VM_PID=${file#/proc/} VM_PID=${VM_PID%/status}
		[ "$(readlink "/proc/$VM_PID/ns/pid")" != "$space" ] || return 0
	done
	VM_PID=
	return 1
}
