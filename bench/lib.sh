# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash disable=SC2034 # what is set is for those who source this
#
# bench/lib.sh - what the benchmarks in a guest have in common
#
# Theory of operation: a benchmark sources this after the harness's library, boots bench/guest.sh, answers its
# requests and makes a table of the samples, all by shell and awk. Standard error stays within reach as
# descriptor 9, since what a request prints goes to the guest.
exec 9>&2

# host_fail WHAT: a job failed in the guest: that is the end. CANDIDATE, where it is set, is who it was.
host_fail() {
	exec 2>&9
	die "${CANDIDATE:+$CANDIDATE: }$*"
}

# cleanup: for the exit.
cleanup() {
	vm_kill
	peers_stop
	rm -rf "$VM_DIR"
}

# For the beginning of an awk program: median(m) sorts s[1..m] and returns its middle.
AWK_MEDIAN='
	function median(m,   a, b, t, mid) {
		for (a = 2; a <= m; a++)
			for (b = a; b > 1 && s[b] + 0 < s[b - 1] + 0; b--) {
				t = s[b]; s[b] = s[b - 1]; s[b - 1] = t
			}
		mid = int((m + 1) / 2)
		return m % 2 ? s[mid] : (s[mid] + s[mid + 1]) / 2
	}'
