# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# libvirt.sh - host half: a domain of libvirt's whose disk is behind the relay
# shellcheck source=tests/vm/lib/libvirt.sh
. "$ROOT/tests/vm/lib/libvirt.sh"

DOMAIN=sluice-$$
RELAY_USER=64200 BACKEND_USER=64201 BACKEND_GROUP=64202
declare -A QSD RELAY

vm_test() {
	local why
	why=$(libvirt_missing)
	if [ -n "$why" ]; then
		tap_skip "a guest of libvirt's" "$why"
		return
	fi
	libvirt_start
	libvirt_files
	cp "$SLUICE" "$VM_DIR/sluice-relay"
	printf '#!/bin/sh\numask 007\nexec setpriv --reuid %s --regid %s --groups %s --bounding-set=-all %s "$@"\n' \
		$RELAY_USER "$LIBVIRT_QEMU_GID" $BACKEND_GROUP "$VM_DIR/sluice-relay" >"$VM_DIR/unit"
	chmod 755 "$VM_DIR/unit"
	mkdir -p "$VM_DIR"/{back,run}
	backend disk
	relay disk
	domain first
	domain_run first
}

# domain PART
domain() {
	{
		libvirt_domain "$DOMAIN" "$1"
		disk_xml disk vda
		echo "</devices></domain>"
	} >"$VM_DIR/domain.xml"
	virsh define "$VM_DIR/domain.xml"
}

disk_xml() {
	cat <<END
<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw' queues='1'/>
  <source type='unix' path='$VM_DIR/run/$1/front.sock'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target dev='$2' bus='virtio'/>
</disk>
END
}

domain_run() {
	libvirt_line "$1"
	virsh start "$DOMAIN" || return 1
	libvirt_pid "$DOMAIN" || return 1
	vm_serve
}

# backend NAME: as a user of its own.
backend() {
	mkdir -p "$VM_DIR/back/$1"
	disk_create "$VM_DIR/back/$1/image" 16M
	chown -R $BACKEND_USER:$BACKEND_GROUP "$VM_DIR/back/$1"
	host_start_backend "$1"
}
host_start_backend() {
	UNPRIVILEGED="setpriv --reuid $BACKEND_USER --regid $BACKEND_GROUP --clear-groups --bounding-set=-all"
	umask 007
	qsd_start "$VM_DIR/back/$1/image" "$VM_DIR/back/$1/sock" && echo started
	umask 022
	QSD[$1]=$QSD_PID
}

# relay NAME [OPTION]...: as the unit starts it.
relay() {
	install -d -m 0750 -o $RELAY_USER -g "$LIBVIRT_QEMU_GID" "$VM_DIR/run/$1"
	host_start_relay "$@"
}
host_start_relay() {
	local SLUICE=$VM_DIR/unit
	shadow_start "$VM_DIR/run/$1/front.sock" "$VM_DIR/back/$1/sock" --keep \
		--stats "$VM_DIR/run/$1/stats.sock" && echo started
	RELAY[$1]=$RELAY_PID
}
host_same() {
	if [ "$(md5sum <"$VM_DIR/back/$1/image")" = "$2  -" ]; then echo same; else echo different; fi
}
host_audit() {
	"$SLUICE" audit --backend "${QSD[$1]}" --vmm "$VM_PID" >"$VM_DIR/audit" 2>&1
	local status=$?
	grep '^reachable:' "$VM_DIR/audit" || tail -n 1 "$VM_DIR/audit"
	return $status
}
