#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/survey-docs.sh - put the figures of build/survey into docs/SURVEY.md, and samples into
# docs/survey
#
# Theory of operation: docs/SURVEY.md has tables between "<!-- NAME -->" and "<!-- end -->"; what is
# between is replaced by what table_NAME prints. Rows come from `sluice survey report --rows`, of
# the one device that a load is for. The samples are a piece out of the middle of each stream of
# "observe", of EVENTS events (the first ones, of "start").
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tests/vm/lib/common.sh
. tests/vm/lib/common.sh
IN=build/survey
EVENTS=1800
SERIES="6.1 6.12"
# The loads, in their order, each with the device that it is for.
LOADS="blk-fio=10.0 blk-fs=05.0 blk-pkg=05.0 scsi-fio=07.0 nvme-fio=0e.0 net-rr=06.0 net-in=06.0
	net-out=06.0 net-small=06.0 e1000e-rr=0f.0 e1000e-in=0f.0 e1000e-out=0f.0 e1000e-small=0f.0
	9p=0b.0 rng=08.0 console=09.0 gpu=0c.0"
sluice() { build/sluice survey "$@"; }

# streams PART LOAD...: those that there are on all kernels, as "SERIES LOAD FILE DEVICE"
streams() {
	local part=$1 l s f
	shift
	for l; do
		for s in $SERIES; do
			f=$IN/$s-$part-${l%=*}.sv
			[ ! -e "$f" ] || echo "$s ${l%=*} $f ${l#*=}"
		done
	done
}

# rows WHAT PART: of all loads on all kernels
rows() {
	local s l f device
	# shellcheck disable=SC2086 # a list
	streams "$2" $LOADS | while read -r s l f device; do
		sluice report --rows "$1" --device "0000:00:$device" "$f" | sed "s/^|/| $s |/"
	done
}

table_sizes() {
	local s
	echo "| kernel | device, load | mappings | ≤ 512 B % | ≤ 2 KiB % | ≤ 4 KiB % | ≤ 16 KiB % | ≤ 512 KiB % |"
	echo "|---|---|---|---|---|---|---|---|"
	echo "| | *the seed of 2023: one boot* | | *3.5* | *57.7* | *91.3* | *96.0* | *100.0* |"
	for s in $SERIES; do
		sluice report --rows sizes "$IN/$s-observe-start.sv" | head -n 1 | sed "s/^|/| $s |/"
	done
	rows sizes observe
}
table_figures() {
	echo "| kernel | device, load | to it % | from it % | lifetime, median | 99 % | alive at once | bytes | coherent | other CPU % | page-aligned % | page seen before % |"
	echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
	rows figures observe
}
table_start() {
	local s
	echo "| kernel | device, load | to it % | from it % | lifetime, median | 99 % | alive at once | bytes | coherent | other CPU % | page-aligned % | page seen before % |"
	echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
	for s in $SERIES; do
		sluice report --rows figures "$IN/$s-observe-start.sv" | sed "s/^|/| $s |/"
	done
}
table_exposure() {
	echo "| kernel | device, load | not filling its pages % | on heap pages % | beside its own % | beside another device's % | beside each, mean | reachable at once | of it mapped |"
	echo "|---|---|---|---|---|---|---|---|---|"
	rows exposure observe
}
table_written() {
	echo "| kernel | device, load | mappings | offered | to the last changed byte % | changed % | not to the end % |"
	echo "|---|---|---|---|---|---|---|"
	rows written bounce
}
table_advice() {
	echo "| kernel | device, load | slot, median | slot, 95 % | pool | share from | bytes in such % | kept pages would meet % | bytes in whole pages % |"
	echo "|---|---|---|---|---|---|---|---|---|"
	rows advice observe
}
table_replay() {
	local s l f
	echo "| kernel | stream | smallest pool | in use at most | with caches | copied | time of a map and its unmap |"
	echo "|---|---|---|---|---|---|---|"
	# shellcheck disable=SC2086 # a list
	streams observe start= $LOADS | while read -r s l f _; do
		sluice replay "$f" | awk -v name="| $s | $l" '
			/^pool/ { sub(/^pool */, ""); sub(/,.*/, ""); pool = $0 }
			/^in use  / { sub(/^in use */, ""); used = $0; sub(/ at most.*/, "", used)
				sub(/.*at most, /, ""); sub(/ with.*/, ""); cached = $0 }
			/^copied/ { sub(/^copied */, ""); sub(/,.*/, ""); copied = $0 }
			/^time/ { sub(/.*, /, ""); sub(/ for.*/, ""); time = $0 }
			END { print name, "|", pool, "|", used, "|", cached, "|", copied, "|", time, "|" }'
	done
}
# shared POLICY FILE: mappings in place, bytes copied, reachable at once; and what by pages would show
shared() {
	sluice replay --policy "$1" "$2" | awk '
		/^maps/ { maps = $2 + 0 }
		/^copied/ { sub(/^copied */, ""); sub(/,.*/, ""); copied = $0 }
		/^shares/ { shares = $2 }
		/^exposed/ { sub(/^exposed */, ""); beside = $0; sub(/ reachable.*/, "")
			sub(/.*pages: /, "", beside); sub(/ beside.*/, "", beside); exposed = $0 }
		END { printf "%.0f | %s | %s | %s\n", maps ? 100 * shares / maps : 0, copied, exposed, beside }'
}
table_policies() {
	local s l f
	echo "| kernel | stream | auto: in place % | copied | reachable | share: in place % | copied | reachable | by pages, beside |"
	echo "|---|---|---|---|---|---|---|---|---|"
	# shellcheck disable=SC2086 # a list
	streams observe start= $LOADS | while read -r s l f _; do
		echo "| $s | $l | $(shared auto "$f" | sed 's/ | [^|]*$//') | $(shared share "$f") |"
	done
}
table_cost() {
	echo "| kernel | fio job | way | median | lowest | highest | against without |"
	echo "|---|---|---|---|---|---|---|"
	awk -F, '
		NR > 1 && $2 !~ /^(lost|events)-/ { k = $1 SUBSEP $2 SUBSEP $3; v[k, ++n[k]] = $4 + 0
			if (n[k] == 1) order[++m] = k }
		function median(k,  i, j, t, c) {
			c = n[k]
			for (i = 1; i <= c; i++) s[i] = v[k, i]
			for (i = 2; i <= c; i++)
				for (j = i; j > 1 && s[j] < s[j - 1]; j--) { t = s[j]; s[j] = s[j - 1]; s[j - 1] = t }
			low = s[1]; high = s[c]
			return c % 2 ? s[(c + 1) / 2] : (s[c / 2] + s[c / 2 + 1]) / 2
		}
		END {
			for (i = 1; i <= m; i++) {
				split(order[i], p, SUBSEP)
				base = p[3] ~ /^bounce/ ? "bounce" : "plain"
				b = median(p[1] SUBSEP p[2] SUBSEP base)
				x = median(order[i])
				printf "| %s | %s | %s | %.0f %s | %.0f | %.0f | %s |\n", p[1], p[2], p[3], x,
					p[2] ~ /^4k/ ? "IOPS" : "MiB/s", low, high,
					p[3] == base ? "" : sprintf("%+.1f %%", 100 * (x / b - 1))
			}
		}' $IN/cost.csv
	echo
	awk -F, '
		$2 ~ /^lost-/ { lost += $4 }
		$2 ~ /^events-/ { events += $4; if ($4 > most) most = $4 }
		END { printf "In these runs %d events were recorded, %d in the largest, and %d were lost.\n", events, most, lost }
	' $IN/cost.csv
}

samples() {
	local s l f n skip
	mkdir -p docs/survey
	rm -f docs/survey/*.sv
	# shellcheck disable=SC2086 # a list
	streams observe start= $LOADS | while read -r s l f _; do
		n=$(sluice report "$f" | sed -n 's/.* of \([0-9]*\) events lost.*/\1/p')
		skip=$(((n - EVENTS) / 2))
		[ "$l" != start ] && [ $skip -gt 0 ] || skip=0
		sluice cut --events $EVENTS --skip $skip "$f" "docs/survey/$s-observe-$l.sv"
	done
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for t in sizes figures start exposure written advice replay policies cost; do
	"table_$t" >"$work/$t"
done
fill_marked docs/SURVEY.md "$work"
samples
