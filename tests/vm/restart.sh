# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# restart.sh - host half: both peers of a relay started with --keep leave and come back
#
# Theory of operation: the backend is killed at once (-9) with requests in flight. QEMU connects
# anew every second (reconnect=1) and hands over the state of its rings; the guest notices a pause.

vm_test() {
	disk_create "$VM_DIR/disk" 16M
	qsd_start "$VM_DIR/disk" "$VM_DIR/qsd"
	pool_create restart 16M
	relay_start "$VM_DIR/relay" "$VM_DIR/qsd" --keep
	local part relay=$RELAY_PID
	for part in kill again; do
		# shellcheck disable=SC2046 # options
		vm_run -p $part $(pool_options) \
			$(vhost_disk "$VM_DIR/relay" ,disable-legacy=on,iommu_platform=on ,reconnect=1)
	done
	tap_check "the relay is still the first one" alive "$relay"
}

host_kill_backend() { peer_kill "$QSD_PID"; }
host_start_backend() { qsd_start "$VM_DIR/disk" "$VM_DIR/qsd" && echo started; }
