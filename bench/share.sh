#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/share.sh - what sharing in place costs, beside bouncing, as tables, CSV and plots
#
# Theory of operation: one process measures every mechanism (bench/share/main.c). The CSV goes to
# build/bench/share.csv; with -d it and the plot replace those in docs/.
#
# usage: bench/share.sh [-d] [-q]
set -eu
cd "$(dirname "$0")/.."
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
if [ -n "$keep" ]; then
	cp "$csv" docs/bench-share.csv
	plot docs/bench-share.svg
fi
