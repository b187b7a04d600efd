#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/pool.sh - the pool's benchmark with its peers, as tables, CSV and plots
#
# Theory of operation: one process measures Sluice, the two designs that it replaces and glibc's
# malloc, interleaved (bench/pool/main.c). Other allocators are preloaded into the same program, which
# then measures nothing but malloc. The CSV goes to build/bench/pool.csv; with -d it and the plots
# replace those in docs/.
#
# usage: bench/pool.sh [-d]
set -eu
cd "$(dirname "$0")/.."
csv=build/bench/pool.csv
make -s bench-pool
echo "table,row,candidate,median,min,max" >"$csv"
build/bench/pool -c "$csv"
for name in jemalloc mimalloc; do
	library=$(ldconfig -p | awk -v n="lib$name" 'index($1, n) == 1 { print $NF; exit }')
	if [ -z "$library" ]; then
		echo "$name is not installed: left out"
		continue
	fi
	printf '\n%s\n' "$name"
	LD_PRELOAD=$library build/bench/pool -c "$csv" -m "$name"
done
# plot OUT: the 99th percentile over occupancy, a line for each candidate and pool
plot() {
	local lines="" candidate size
	for candidate in "sluice" "slot scan" "class locks"; do
		for size in 64 1024; do
			awk -F, -v c="$candidate" -v m="$size" '
				$1 == "fill" && $3 == c { split($2, w, " "); if (w[1] == m) print w[3], $5 }
			' "$csv" >"build/bench/$candidate $size.dat"
			lines+="\"build/bench/$candidate $size.dat\" title \"$candidate, $size MiB\", "
		done
	done
	gnuplot <<-END
		set terminal svg size 760,420 font "sans,12" background "white"
		set output "$1"
		set title "one map under random replacement: 99th percentile"
		set xlabel "share of the pool in use, %"
		set ylabel "ns"
		set logscale y
		set grid
		set key outside right
		set style data linespoints
		plot ${lines%, }
	END
}
if [ "${1:-}" = -d ]; then
	cp "$csv" docs/bench-pool.csv
	plot docs/bench-pool.svg
fi
