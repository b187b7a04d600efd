#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/share.sh - what sharing in place costs, beside bouncing, as tables, CSV and plots
#
# Theory of operation: one process measures every mechanism (bench/share/main.c). The CSV goes to
# build/bench/share.csv; with -d it and the plot replace those in docs/, and the tables of docs/SHARE.md
# between "<!-- NAME -->" and "<!-- end -->" are made from it.
#
# usage: bench/share.sh [-d] [-q]
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tests/vm/lib/common.sh
. tests/vm/lib/common.sh
csv=build/bench/share.csv
keep=
quick=()
while getopts dq o; do
	case $o in
	d) keep=1 ;;
	q) quick=(-q) ;;
	*) exit 1 ;;
	esac
done
make -s bench-share
build/bench/share -c "$csv" "${quick[@]}"

# plot OUT: cost over length, a line for bouncing and one for each mechanism.
plot() {
	local lines="" mechanism
	awk -F, '$1 == "cost" && $2 == "iommu" && $3 == "bounce" { print $4, $5 }' "$csv" \
		>"build/bench/share bounce.dat"
	lines="\"build/bench/share bounce.dat\" title \"bounce\" lw 3, "
	for mechanism in "window" "grant v1" "grant pt" "iommu" "lazy trip" "iommu trip"; do
		awk -F, -v m="$mechanism" \
			'$1 == "cost" && $2 == m && $3 == "share" && $4 >= 4096 { print $4, $5 }' \
			"$csv" >"build/bench/share $mechanism.dat"
		lines+="\"build/bench/share $mechanism.dat\" title \"$mechanism\", "
	done
	gnuplot <<-END
		set terminal svg size 760,420 font "sans,12" background "white"
		set output "$1"
		set title "a map and its unmap: copied, or shared in place"
		set xlabel "bytes"
		set ylabel "ns"
		set logscale xy
		set format x "10^{%L}"
		set grid
		set key outside right
		set style data linespoints
		plot ${lines%, }
	END
}
table_costs() {
	awk -F, '
		$1 == "cost" && ($2 == "iommu" && $3 ~ /^bounce$/ || $3 == "share" || $2 == "iommu" && $3 == "share split") {
			k = $3 == "bounce" ? "bounce" : $3 == "share split" ? "split" : $2
			v[k, $4] = $5
			if (k == "bounce") length_of[++n] = $4
		}
		END {
			m = split("bounce,window,grant v1,grant pt,iommu,split,lazy trip,iommu trip", name, ",")
			print "| bytes | bounce | window | grant v1 | grant pt | iommu, no trip | iommu, split | iommu, lazy, trip | iommu, trip |"
			print "|---|---|---|---|---|---|---|---|---|"
			for (i = 1; i <= n; i++) {
				if (length_of[i] < 4096) continue
				printf "| %d |", length_of[i]
				for (k = 1; k <= m; k++)
					printf (k2 = v[name[k], length_of[i]]) == "" ? " |" : " %.0f |", k2
				print ""
			}
		}' "$csv"
}
table_even() {
	echo "| mechanism | whole granules | split |"
	echo "|---|---|---|"
	awk -F, '
		$1 == "even" {
			v[$2, $3] = $4 == 4294967295 ? "never" : $4 <= 4096 ? "at once" : sprintf("%.1f KiB", $4 / 1024)
			if ($3 == "whole") name[++n] = $2
		}
		END { for (i = 1; i <= n; i++) printf "| %s | %s | %s |\n", name[i], v[name[i], "whole"], v[name[i], "split"] }
	' "$csv"
}
# Where auto is more than 5 % below the better of both, and what it was there when asked twice more.
table_auto() {
	echo "| mechanism | bytes | | bounce | share | auto | best/auto | again | and again |"
	echo "|---|---|---|---|---|---|---|---|---|"
	awk -F, '
		$1 == "cost" {
			w = $3; split_too = sub(/ split$/, "", w)
			k = $2 " | " $4 " | " (split_too ? "split" : "")
			v[k, w] = $5
			if (w == "auto") name[++n] = k
		}
		$1 == "again" {
			k = $2 " | " $4 " | " ($3 == "split" ? "split" : "")
			second[k] = $6; third[k] = $7
		}
		END {
			for (i = 1; i <= n; i++) {
				k = name[i]
				b = v[k, "bounce"] < v[k, "share"] ? "bounce" : "share"
				ratio = v[k, b] / v[k, "auto"]
				if (i == 1 || ratio < worst) worst = ratio
				if (ratio >= 0.95) continue
				misses++
				often += second[k] < 0.95 || third[k] < 0.95
				printf "| %s | %.0f | %.0f | %.0f | %.3f | %s | %s |\n", k, v[k, "bounce"], v[k, "share"], v[k, "auto"], ratio, second[k], third[k]
			}
			printf "\nBelow 0.95 at %d of %d places, at %d of these in most of three runs; the worst is %.3f.\n", misses, n, often, worst
		}' "$csv"
}
table_addresses() {
	echo "| live mappings | 1 thread | 2 threads, each |"
	echo "|---|---|---|"
	awk -F, '
		$1 == "addresses" {
			v[$2, $4] = sprintf("%.0f (%.0f to %.0f)", $5, $6, $7)
			if ($2 == "1 thread") live[++n] = $4
		}
		END { for (i = 1; i <= n; i++) printf "| %d | %s | %s |\n", live[i], v["1 thread", live[i]], v["2 threads", live[i]] }
	' "$csv"
}
tables() {
	local t
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	for t in costs even auto addresses; do
		"table_$t" >"$work/$t"
	done
	fill_marked docs/SHARE.md "$work"
}
if [ -n "$keep" ]; then
	cp "$csv" docs/bench-share.csv
	plot docs/bench-share.svg
	tables
fi
