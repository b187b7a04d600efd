# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# libvirt.sh - host half: a domain of libvirt's, each of whose vhost-user devices is behind a relay
#
# Theory of operation: Debian's libvirtd (lib/libvirt.sh) runs a domain with the XML of docs/OPERATING.md, through a life that
# only libvirt leads it through: it is started, shut down by its power button, started again, saved to a file and restored,
# destroyed in the middle of its work, started once more. All that time there is one relay (--keep) and one backend a device, but for
# those of the disk, which are killed as well. Users and groups are those of dist/sluice-relay@.service: the relay
# has a user of its own, its sockets are for the group that libvirt runs QEMU with, and the backend is another user, whose group the
# relay is also in. So what the domain is able to connect to is tested with it; a start that has to fail comes first.
#
# A domain with a file system cannot be saved, by libvirt's own rule. So the parts differ in their devices:
#
#	first	disk, file system, network; a second disk is plugged in and out
#	next	disk, network
#	last	disk
#	moved	disk; the guest is moved to another libvirt, in whose domain the disk has another relay and another backend, on
#		one image. (With QEMU 10.0 only: QEMU 7.2 loses memory under TCG, docs/PEERS.md.)
#
# With 6.1 it is QEMU 10.0 and the disk's ring is split, with 6.12 the system's QEMU and a packed one. QEMU 7.2 has no
# network, see matrix.sh, from which the backends are taken. Not part of ./run test, but of ./run matrix.
#
# shellcheck source=tests/vm/matrix.sh
. "$ROOT/tests/vm/matrix.sh"
# shellcheck source=tests/vm/lib/libvirt.sh
. "$ROOT/tests/vm/lib/libvirt.sh"

DOMAIN=sluice-$$
# Nobody else's: Debian gives them to nobody by itself.
RELAY_USER=64200 BACKEND_USER=64201 BACKEND_GROUP=64202
declare -A QSD RELAY

vm_test() {
	local why name qemu=()
	why=$(libvirt_missing)
	if [ -n "$why" ]; then
		tap_skip "disk: a guest of libvirt's" "$why"
		return
	fi
	case $(kernel_version "$KERNEL") in
	6.1.*)
		QEMU=10.0 PACKED=off MATRIX_FS=c
		qemu=("$(suite_get bookworm-backports qemu qemu-system-x86 qemu-system-common qemu-system-data)")
		;;
	*) QEMU=system PACKED=on MATRIX_FS=rust ;;
	esac
	NO_NET="" NAMESPACE=()
	if [ $QEMU = system ]; then
		NO_NET="QEMU 7.2 ends with a segmentation fault at passt, without a relay as well"
	elif ! net_namespace; then
		NO_NET="no network of its own can be made here (unshare -n)"
	fi
	libvirt_start "${qemu[@]}"
	TAP_PREFIX+="libvirt $(virsh --version), QEMU $QEMU: "
	libvirt_files
	cp "$SLUICE" "$VM_DIR/program"
	# What the unit says: User (made for it), Group, SupplementaryGroups, UMask, CapabilityBoundingSet, NoNewPrivileges.
	cat >"$VM_DIR/unit" <<-END
		#!/bin/sh
		umask 007
		exec setpriv --reuid $RELAY_USER --regid $LIBVIRT_QEMU_GID --groups $BACKEND_GROUP \
			--bounding-set=-all --no-new-privs $VM_DIR/program "\$@"
	END
	chmod 755 "$VM_DIR/unit"

	for name in disk disk2; do
		mkdir -p "$VM_DIR/back/$name"
		disk_create "$VM_DIR/back/$name/image" 16M
		chown -R $BACKEND_USER:$BACKEND_GROUP "$VM_DIR/back/$name"
		host_start_backend $name >/dev/null
		relay $name
	done
	mkdir -p "$VM_DIR"/back/{fs,net} "$VM_DIR/fs"
	head -c 5000000 /dev/urandom >"$VM_DIR/fs/read"
	fs_start "$VM_DIR/back/fs/sock" "$VM_DIR/fs"
	relay fs
	if [ -z "$NO_NET" ]; then
		passt_start "$VM_DIR/back/net/sock"
		relay net
	fi

	refused_starts
	part first "$(disk_xml disk vda " packed='$PACKED'")$(fs_xml)$(net_xml)"
	tap_check "all its relays wait for the next guest" relays_alive
	part next "$(disk_xml disk vda " packed='$PACKED'")$(net_xml)"
	part last "$(disk_xml disk vda " packed='$PACKED'")"
	[ $QEMU = system ] || moved "${qemu[@]}"
	tap_check "nothing was refused" not grep -h refused "$VM_DIR"/relay-*.log
}

# moved [FOLDER]...: the last part, with a second libvirt.
moved() {
	local source=$LIBVIRT
	libvirt_start "$@"
	THERE=$LIBVIRT LIBVIRT=$source
	mkdir -p "$VM_DIR/back/disk3"
	ln "$VM_DIR/back/disk/image" "$VM_DIR/back/disk3/image"
	chown $BACKEND_USER:$BACKEND_GROUP "$VM_DIR/back/disk3"
	host_start_backend disk3 "driver=file,locking=off,node-name=file,filename=$VM_DIR/back/disk3/image" >/dev/null
	relay disk3
	install -d -m 0777 "$VM_DIR/way"
	MOVED=no SAME=no
	part moved "$(disk_xml disk vda)"
	tap_check "it is moved to another libvirt ($MOVED)" [ "$MOVED" = yes ]
	tap_check "disk: the host has the same bytes after that" [ "$SAME" = same ]
}

# The guest that is moved is not answered: to both QEMUs its line is a file, and has one direction.
host_move() {
	virsh dumpxml "$DOMAIN" --migratable | sed 's|/run/disk/|/run/disk3/|' >"$VM_DIR/there.xml"
	MOVED=$(virsh migrate --live --persistent "$DOMAIN" "qemu+unix:///system?socket=$LIBVIRT_SOCKET" \
		--migrateuri "unix://$VM_DIR/way/sock" --xml "$VM_DIR/there.xml" 2>&1) || return
	LIBVIRT=$THERE
	MOVED=yes
	libvirt_pid "$DOMAIN" && MOVED=$(host_audit disk3) && MOVED=yes
	host_shutdown
}
host_moved() { SAME=$(host_same disk "$1"); }

# relays_alive: all of them, among them those that have been started last.
relays_alive() {
	local p
	for p in "${RELAY[@]}"; do
		alive "$p" || return 1
	done
}

# part NAME DEVICES: the domain as it is to be now, from its start to its end.
part() {
	define "$1" "$2"
	libvirt_line "$1"
	if tap_check "it starts, once the relay's socket is QEMU's to open ($1)" starts && libvirt_pid "$DOMAIN"; then
		vm_serve || tail -n 5 "$VM_DIR"/relay-*.log "$VM_DIR/libvirtd.log" | sed 's/^/# /'
	else
		tail -n 5 "$VM_DIR"/relay-*.log "$VM_DIR/libvirtd.log" | sed 's/^/# /'
	fi
	tap_check "it is shut off ($1)" shut_off
}

shut_off() {
	local n=100
	until [ "$(virsh domstate "$DOMAIN")" = "shut off" ]; do
		[ $((n -= 1)) -gt 0 ] || return 1
		sleep 0.1
	done
}

# define PART DEVICES
define() {
	{
		libvirt_domain "$DOMAIN" "$1"
		echo "$2"
		echo "</devices></domain>"
	} >"$VM_DIR/domain.xml"
	[ "$1" != moved ] || sed -i "s|type='pipe'><source path='$VM_DIR/line'|type='file'><source path='$VM_DIR/line.out'|" \
		"$VM_DIR/domain.xml"
	virsh define "$VM_DIR/domain.xml" || die "libvirt does not take $(cat "$VM_DIR/domain.xml")"
}

# disk_xml NAME TARGET [ATTRIBUTES]: as docs/OPERATING.md has it.
disk_xml() {
	cat <<END
<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw' queues='1'${3:-}/>
  <source type='unix' path='$VM_DIR/run/$1/front.sock'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target dev='$2' bus='virtio'/>
</disk>
END
}

fs_xml() {
	cat <<END
<filesystem type='mount'>
  <driver type='virtiofs' queue='256'/>
  <source socket='$VM_DIR/run/fs/front.sock'/>
  <target dir='share'/>
</filesystem>
END
}

# net_xml: none where there is none.
net_xml() {
	[ -z "$NO_NET" ] || return 0
	cat <<END
<interface type='vhostuser'>
  <source type='unix' path='$VM_DIR/run/net/front.sock' mode='client'/>
  <model type='virtio'/>
</interface>
END
}

# refused_starts: what has to be in order before it starts. Without <reconnect>, with which it waits instead.
refused_starts() {
	libvirt_line first
	define first "$(disk_xml disk vda | grep -v reconnect)"
	sed -i '/<memoryBacking>/,/<\/memoryBacking>/d' "$VM_DIR/domain.xml"
	refused "no domain without shared memory" "requires shared memory" define "$VM_DIR/domain.xml"
	chgrp 0 "$VM_DIR/run/disk"
	refused "no start with a socket that QEMU's group may not open" "Permission denied" start "$DOMAIN"
	chgrp "$LIBVIRT_QEMU_GID" "$VM_DIR/run/disk"
}

# refused NAME WORDS COMMAND...: virsh fails, and says so.
refused() {
	local name=$1 words=$2 said
	shift 2
	if said=$(virsh "$@" 2>&1); then
		tap_not_ok "$name" "it was accepted"
	elif [[ $said == *$words* ]]; then
		tap_ok "$name"
	else
		tap_not_ok "$name" "$said"
	fi
	echo "# ${said//$'\n'/$'\n'# }"
}

# starts: the relay's socket is not to be had at first; with <reconnect> that is waited for.
starts() {
	chgrp 0 "$VM_DIR/run/disk"
	(sleep 3 && chgrp "$LIBVIRT_QEMU_GID" "$VM_DIR/run/disk") &
	virsh start "$DOMAIN" &&
		[ "$(stat -c %g "$VM_DIR/run/disk")" = "$LIBVIRT_QEMU_GID" ]
}

# host_start_backend NAME [BLOCKDEV]
host_start_backend() {
	local status
	# shellcheck disable=SC2034 # qsd_start's
	local UNPRIVILEGED="setpriv --reuid $BACKEND_USER --regid $BACKEND_GROUP --clear-groups --bounding-set=-all"
	umask 007
	qsd_start "$VM_DIR/back/$1/image" "$VM_DIR/back/$1/sock" "${2:-}" && echo started
	status=$?
	umask 022
	QSD[$1]=$QSD_PID
	return $status
}
host_kill_backend() { peer_kill "${QSD[$1]}"; }

# relay NAME: with the folder that the unit has made for it (RuntimeDirectory).
relay() {
	chgrp $BACKEND_GROUP "$VM_DIR/back/$1/sock"
	chmod 770 "$VM_DIR/back/$1/sock"
	install -d -m 0750 -o $RELAY_USER -g "$LIBVIRT_QEMU_GID" "$VM_DIR/run/$1"
	host_start_relay "$1" >/dev/null
}
host_start_relay() {
	local SLUICE=$VM_DIR/unit
	shadow_start "$VM_DIR/run/$1/front.sock" "$VM_DIR/back/$1/sock" --keep && echo started
	RELAY[$1]=$RELAY_PID
	mv "$VM_DIR/relay.log" "$VM_DIR/relay-$1-$RELAY_PID.log"
}
host_kill_relay() { peer_kill "${RELAY[$1]}"; }

# host_plug attach|detach NAME TARGET
host_plug() {
	disk_xml "$2" "$3" >"$VM_DIR/device.xml"
	virsh "$1-device" "$DOMAIN" "$VM_DIR/device.xml" --live && echo "$1ed"
}

# host_shutdown: by the guest's power button.
host_shutdown() { virsh shutdown "$DOMAIN" --mode acpi; }

# host_save: into a file and back; the guest that asked for it is the one that is answered.
host_save() {
	virsh managedsave "$DOMAIN" && shut_off && virsh start "$DOMAIN" && libvirt_pid "$DOMAIN" && echo saved
}
host_suspend() { virsh suspend "$DOMAIN" && sleep 1 && virsh resume "$DOMAIN" && echo resumed; }

# host_destroy: it cannot say that this is its end any more.
host_destroy() { virsh destroy "$DOMAIN" && printf 'end\n' >&"$VM_OUT"; }

host_same() {
	if [ "$(md5sum <"$VM_DIR/back/$1/image")" = "$2  -" ]; then echo same; else echo different; fi
}
host_audit() { audit_says "${QSD[$1]}"; }
