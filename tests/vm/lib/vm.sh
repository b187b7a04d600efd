# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2034 # what is set is for those who source this
#
# vm.sh - boot a guest and serve its test script
#
# Theory of operation: vm_start boots a stock kernel with the image of image.sh and returns;
# vm_serve reads the guest's lines (ttyS1, a pair of FIFOs) until the guest says "end": results
# become TAP lines, and "host NAME ARG..." runs the function host_NAME of the test here, whose
# status and output go back. So the guest's script leads, and everything that the host does (kill a
# backend, audit a process, compare checksums) happens at a known point of it. vm_run is both.
#
# A guest fails its test, besides by its own results, if it does not reach its end in time or if
# its kernel printed anything that kernel_complaints knows.
#
# Set by the caller: KERNEL (folder from kernels.sh), VM_DIR (scratch folder of this test),
# GUEST (the guest's script), MODULE (sluice.ko, may be empty), ACCEL (QEMU's options).
# VM_FILES: more of the image, a list of FILE NAME, each FILE as /test/NAME.
# Set here: VM_PID. Only processes started here are ever killed, by their id.

# A test may change these before it boots.
VM_MEMORY=512
VM_MACHINE=pc # q35 for an IOMMU
VM_CPUS=2 # what -smp takes. For one, say 1,maxcpus=2: see bench/vm.sh
VM_TIMEOUT=${SLUICE_VM_TIMEOUT:-300}
VM_APPEND= # to the kernel's command line, in each boot
VM_QEMU=(qemu-system-x86_64)
vm_firmware() { echo "-bios qboot.rom"; } # SeaBIOS would touch every disk

# vm_start [-p PART] [-a KERNEL_OPTIONS] QEMU_OPTION...
vm_start() {
	local part=all append="" dir=$VM_DIR
	while :; do
		case ${1:-} in
		-p) part=$2 ;;
		-a) append=$2 ;;
		*) break ;;
		esac
		shift 2
	done
	rm -f "$dir"/{line,monitor}.{in,out}
	mkfifo "$dir"/{line,monitor}.{in,out}
	VM_CONSOLE=$dir/console-$part
	# shellcheck disable=SC2086 # VM_FILES is a list
	[ -e "$dir/initrd" ] || image_build "$KERNEL" "$dir/initrd" "$GUEST" guest.sh \
		${MODULE:+"$MODULE" sluice.ko} ${VM_FILES:-}
	# shellcheck disable=SC2046,SC2086 # lists of options
	"${VM_QEMU[@]}" -M "$VM_MACHINE" $(vm_firmware) $ACCEL -m "$VM_MEMORY" -smp "$VM_CPUS" -nodefaults \
		-no-user-config -display none -no-reboot \
		-chardev "file,id=console,path=$VM_CONSOLE" -serial chardev:console \
		-chardev "pipe,id=line,path=$dir/line" -serial chardev:line \
		-chardev "pipe,id=monitor,path=$dir/monitor" -mon chardev=monitor,mode=readline \
		-kernel "$(kernel_image "$KERNEL")" -initrd "$dir/initrd" \
		-append "console=ttyS0 quiet panic=-1 oops=panic sysrq_always_enabled maxcpus=1 part=$part $VM_APPEND $append" \
		"$@" >"$dir/qemu.log" 2>&1 </dev/null &
	VM_PID=$!
	# Opened for both directions, so that neither end waits for the other to open it.
	exec {VM_IN}<>"$dir/line.in" {VM_OUT}<>"$dir/line.out" {VM_MON}<>"$dir/monitor.in"
	exec {VM_MON_OUT}<>"$dir/monitor.out"
}

# vm_serve: until the guest is done, gone or out of time. Fails in the latter two cases.
vm_serve() {
	local line part="" status reply end=$((SECONDS + VM_TIMEOUT)) outcome=""
	while [ -z "$outcome" ]; do
		if ! IFS= read -r -t 1 -u "$VM_OUT" line; then
			part+=$line # the second was over in the middle of a line
			if [ $SECONDS -ge $end ]; then
				outcome="it was not done after $VM_TIMEOUT s"
				vm_show_tasks
			elif ! kill -0 "$VM_PID" 2>/dev/null; then
				outcome="it ended before its script did"
			fi
			continue
		fi
		line=$part${line%$'\r'}
		part=
		case $line in
		"ok - "*) printf 'ok - %s%s\n' "$TAP_PREFIX" "${line#ok - }" ;;
		"not ok - "*)
			printf 'not ok - %s%s\n' "$TAP_PREFIX" "${line#not ok - }"
			TAP_FAILED=$((TAP_FAILED + 1))
			;;
		"host "*)
			# The function runs in this shell, so that it can keep what it learns.
			# shellcheck disable=SC2086 # a request is words
			host_${line#host } >"$VM_DIR/reply" 2>&1
			status=$?
			reply=$(tail -n 1 "$VM_DIR/reply" | tr -d '\r')
			printf '%s %s\n' $status "$reply" >&"$VM_IN"
			;;
		"# "*) printf '%s\n' "$line" ;;
		end) outcome=end ;;
		esac
	done
	vm_end
	if [ "$outcome" != end ]; then
		tap_not_ok "guest ${VM_CONSOLE##*-}" "$outcome; its console is $(vm_keep)"
		{
			tail -n 25 "$VM_CONSOLE"
			tail -n 5 "$VM_DIR/qemu.log"
		} | sed 's/^/# /'
		return 1
	fi
	if kernel_complaints "$VM_CONSOLE" >"$VM_DIR/complaints"; then
		tap_not_ok "no complaint from the guest's kernel" \
			"$(head -n 1 "$VM_DIR/complaints"); its console is $(vm_keep)"
		sed 's/^/# /' "$VM_DIR/complaints"
		return 1
	fi
	tap_ok "no complaint from the guest's kernel (${VM_CONSOLE##*-})"
}

# vm_show_tasks: have a hanging guest's kernel say on its console where its tasks are.
vm_show_tasks() {
	local key
	for key in 9 l w t; do
		vm_hmp "sendkey alt-sysrq-$key"
		sleep 1
	done
	sleep 3
}

# vm_end: wait for the power-off, for a moment; make sure of it.
vm_end() {
	local n=100
	while kill -0 "$VM_PID" 2>/dev/null && [ $((n -= 1)) -gt 0 ]; do
		sleep 0.1
	done
	kill -9 "$VM_PID" 2>/dev/null
	wait "$VM_PID" 2>/dev/null
	exec {VM_IN}>&- {VM_OUT}>&- {VM_MON}>&- {VM_MON_OUT}>&-
	VM_PID=
}

# vm_kill: end the guest at once, if one runs.
vm_kill() {
	[ -z "$VM_PID" ] || { kill -9 "$VM_PID" && wait "$VM_PID"; } 2>/dev/null
}

vm_run() {
	vm_start "$@"
	vm_serve
}

# vm_keep: copy the console to where it outlives the test; print the name.
vm_keep() {
	local to
	to=$ROOT/build/logs/console-$(basename "$VM_DIR")-${VM_CONSOLE##*-}
	mkdir -p "$ROOT/build/logs"
	cp "$VM_CONSOLE" "$to"
	echo "$to"
}

# kernel_complaints FILE: print the lines with which a kernel reports that it is not well.
kernel_complaints() {
	grep -aE -e 'BUG:|WARNING:|Oops|kernel BUG at|Call Trace|DMA-API|Kernel panic' \
		-e 'possible recursive locking|circular locking|inconsistent lock state' \
		-e 'soft lockup|rcu.*(stall|detected)|blocked for more than' \
		-e 'general protection|[Bb]ad page|use-after-free|swiotlb buffer is full' "$1"
}

# vm_hmp COMMAND...: QEMU's monitor.
vm_hmp() { printf '%s\n' "$*" >&"$VM_MON"; }

# vm_hmp_says PATTERN: wait until the monitor printed a line like that (10 s); print it.
vm_hmp_says() {
	local line part="" end=$((SECONDS + 10))
	while [ $SECONDS -lt $end ]; do
		if ! IFS= read -r -t 1 -u "$VM_MON_OUT" line; then
			part+=$line
			continue
		fi
		line=$part$line
		part=
		if [[ $line =~ $1 ]]; then
			printf '%s\n' "$line"
			return 0
		fi
	done
	return 1
}
