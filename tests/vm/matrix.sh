# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# matrix.sh - host half: stock backends behind mode shadow, in front of them stock QEMU and guest
#
# Theory of operation: one boot has a device of each backend that there is, each behind a relay of its
# own: a disk (qemu-storage-daemon), a file system (virtiofsd) and a network (passt). Which QEMU, which
# virtiofsd, which ring layout on the guest's side, and whether the relays are there at all, is said by
#
#	MATRIX_QEMU	system | 10.0
#	MATRIX_FS	c (of QEMU 7.2) | rust (of Debian's trixie)
#	MATRIX_RING	split | packed
#	MATRIX_RELAY	shadow | direct (to tell a backend's fault from the relay's)
#
# which tests/vm/matrix goes through; without it each kernel has one combination. passt needs a
# network of its own, in which nothing but lo is up, so that nothing can leave; QEMU 7.2 ends with a
# segmentation fault when it meets passt, with or without a relay, so there it is left out. Nothing
# has to be root but virtiofsd in C: an ordinary user gets the other one, not sandboxed, and passt in a
# user namespace.

vm_test() {
	local fs=$VM_DIR/fs
	# shellcheck disable=SC2153 # set by run
	case $(kernel_version "$KERNEL") in
	6.1.*) : "${MATRIX_QEMU:=10.0}" "${MATRIX_RING:=packed}" "${MATRIX_FS:=c}" ;;
	*) : "${MATRIX_QEMU:=system}" "${MATRIX_RING:=split}" "${MATRIX_FS:=rust}" ;;
	esac
	# The C one has to be root.
	[ "$(id -u)" -eq 0 ] || MATRIX_FS=rust
	: "${MATRIX_RELAY:=shadow}"
	TAP_PREFIX+="QEMU $MATRIX_QEMU, $MATRIX_RING, $MATRIX_RELAY: "
	qemu_use "$MATRIX_QEMU"
	local ring="" modern options=()
	[ "$MATRIX_RING" = split ] || ring=,packed=on
	modern=,disable-legacy=on$ring

	disk_create "$VM_DIR/disk" 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	# With the least pool there is the guest has to be told to ask for less at once.
	relay_to disk "$VM_DIR/qsd" --pool-size 2M --pool-max 2M
	# shellcheck disable=SC2207 # options
	options+=($(vhost_disk "$SOCKET" "$modern"))

	mkdir -p "$fs"
	make_repository "$fs/repository" >>"$VM_DIR/backend.log" 2>&1
	fs_start "$VM_DIR/vfs" "$fs"
	relay_to fs "$VM_DIR/vfs"
	options+=(-chardev "socket,id=fs,path=$SOCKET"
		-device "vhost-user-fs-pci,chardev=fs,tag=share,queue-size=256,addr=06.0$ring")

	NO_NET="" NAMESPACE=()
	if [ "$MATRIX_QEMU" = system ]; then
		NO_NET="QEMU 7.2 ends with a segmentation fault at passt, without a relay as well"
	elif ! net_namespace; then
		NO_NET="this user may not make a network of its own here (unshare -rn): root may"
	fi
	if [ -z "$NO_NET" ]; then
		passt_start "$VM_DIR/passt"
		relay_to net "$VM_DIR/passt"
		options+=(-chardev "socket,id=net,path=$SOCKET" -netdev "vhost-user,id=net,chardev=net"
			-device "virtio-net-pci,netdev=net,addr=07.0$modern")
	fi
	vm_run_shared "${options[@]}"
	[ "$MATRIX_RELAY" = direct ] ||
		tap_check "nothing was refused" not grep -h refused "$VM_DIR"/relay-*.log
}

# relay_to NAME SOCKET [OPTION]...: sets SOCKET to where QEMU is to connect.
relay_to() {
	local name=$1
	shift
	SOCKET=$1
	[ "$MATRIX_RELAY" = shadow ] || return 0
	shadow_start "$VM_DIR/relay-$name" "$@"
	mv "$VM_DIR/relay.log" "$VM_DIR/relay-$name.log"
	SOCKET=$VM_DIR/relay-$name
}

# fs_start SOCKET FOLDER
fs_start() {
	local dir sandbox=chroot
	[ "$(id -u)" -eq 0 ] || sandbox=none
	case $MATRIX_FS in
	c) backend_start "$1" /usr/lib/qemu/virtiofsd "--socket-path=$1" -o "source=$2" \
		-o sandbox=chroot -o cache=auto ;;
	rust)
		dir=$(suite_get trixie virtiofsd virtiofsd libc6 libcap-ng0 libseccomp2 libgcc-s1) ||
			exit 1
		backend_start "$1" suite_run "$dir" usr/libexec/virtiofsd "--socket-path=$1" \
			"--shared-dir=$2" "--sandbox=$sandbox"
		;;
	esac
}

# net_namespace: set NAMESPACE to what a command is run by in a network, and processes, of its own; fails if
# that cannot be.
net_namespace() {
	NAMESPACE=(unshare -n -p --fork --kill-child)
	[ "$(id -u)" -eq 0 ] || NAMESPACE+=(--map-root-user)
	"${NAMESPACE[@]}" true 2>/dev/null
}

# passt_start SOCKET: with a web server beside it that has /file. A process namespace, so that all of it
# ends with the one that peers_stop kills.
passt_start() {
	local dir
	dir=$(suite_get trixie passt passt libc6) || exit 1
	mkdir -p "$VM_DIR/www"
	head -c 5000000 /dev/urandom >"$VM_DIR/www/file"
	export -f suite_run
	# shellcheck disable=SC2016 # for the inner shell
	backend_start "$1" "${NAMESPACE[@]}" bash -c 'ip link set lo up &&
		{ busybox httpd -f -p 127.0.0.1:8080 -h "$3" & } &&
		suite_run "$1" usr/bin/passt -f --vhost-user -s "$2" --runas 0' - "$dir" "$1" "$VM_DIR/www"
}

make_repository() {
	local n
	git init -q "$1"
	for n in $(seq 150); do
		head -c $((n * 211 % 30000)) /dev/urandom >"$1/file-$n"
	done
	git -C "$1" add -A
	git -C "$1" -c user.name=t -c user.email=t@localhost commit -q -m first
}

# host_clone_is_good: what the guest has cloned, as the host sees it.
host_clone_is_good() {
	git -c safe.directory='*' -C "$VM_DIR/fs/clone" fsck --full &&
		diff -r -x .git "$VM_DIR/fs/repository" "$VM_DIR/fs/clone" && echo good
}
host_file_sum() { md5sum <"$VM_DIR/$1" | cut -d' ' -f1; }
host_no_net() { echo "${NO_NET:--}"; }
