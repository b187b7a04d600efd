#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# bench/pool.sh - the pool's benchmark with its peers, as tables, CSV and plots
#
# Theory of operation: one process measures Sluice, Linux 6.12's own swiotlb, models of the two
# designs that it replaces and glibc's malloc, interleaved (bench/pool/main.c). Other allocators are
# preloaded into the same program, which then measures nothing but malloc. The CSV goes to
# build/bench/pool.csv; with -d it and the plots replace those in docs/.
#
# swiotlb.c comes out of Debian's source package, which is downloaded once (150 MB), and of which
# three files are kept in .cache. Where it cannot be had, the rest is measured without it.
#
# usage: bench/pool.sh [-d]
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tests/vm/lib/all.sh
. tests/vm/lib/all.sh

SOURCE=$CACHE/swiotlb-6.12
SOURCE_PACKAGE=linux-source-6.12

swiotlb_download() {
	apt-get download -qq -o APT::Sandbox::User=root $SOURCE_PACKAGE >&2
}

# swiotlb_get: fill $SOURCE; it is there whole or not at all.
swiotlb_get() {
	local work=$SOURCE.$$ header
	[ ! -e "$SOURCE" ] || return 0
	say "downloading $SOURCE_PACKAGE for its swiotlb.c (once, into $CACHE)"
	mkdir -p "$work/include"
	(
		cd "$work" || exit 1
		swiotlb_download || { (apt_update) && swiotlb_download; } || exit 1
		dpkg-deb -f ./*.deb Version >version || exit 1
		# tar has what it wants long before the end, and so the others die of SIGPIPE.
		dpkg-deb --fsys-tarfile ./*.deb 2>/dev/null |
			tar -xO "./usr/src/$SOURCE_PACKAGE.tar.xz" 2>/dev/null | xz -dc 2>/dev/null |
			tar -x --strip-components=1 --occurrence=1 $SOURCE_PACKAGE/kernel/dma/swiotlb.c \
				$SOURCE_PACKAGE/include/linux/{swiotlb,iommu-helper}.h || exit 1
		rm -- *.deb
		# bench/pool/linux.h is all that these would say.
		sed -n "s/^#include <\(.*\)>.*/\1/p" kernel/dma/swiotlb.c include/linux/*.h | sort -u |
			while read -r header; do
				[ ! -e "include/$header" ] && [ ! -e "/usr/include/$header" ] || continue
				mkdir -p "include/$(dirname "$header")"
				: >"include/$header"
			done
	) && mv "$work" "$SOURCE" && return 0
	rm -rf "$work"
	return 1
}

csv=build/bench/pool.csv
if swiotlb_get; then
	make -s bench-pool "SWIOTLB=$SOURCE"
	echo "swiotlb 6.12: kernel/dma/swiotlb.c of $SOURCE_PACKAGE $(cat "$SOURCE/version")"
else
	say "$SOURCE_PACKAGE cannot be had (no network access, or package lists without it: Debian 12" \
		"has it in bookworm-security): measuring without Linux's own swiotlb"
	rm -f build/bench/pool # it may have been linked with it
	make -s bench-pool
fi
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

# lines X Y FILTER CANDIDATE...: a line of the plot for each candidate that the CSV has, from the rows
# whose table and row match the filter; X and Y as awk takes them from the row's words and the fields.
lines() {
	local x=$1 y=$2 filter=$3 candidate data
	shift 3
	for candidate; do
		data="build/bench/plot $filter $candidate.dat"
		awk -F, -v c="$candidate" -v f="$filter" \
			"\$3 == c && \$1 \",\" \$2 ~ \"^\" f { split(\$2, w, \" \"); print $x, $y }" \
			"$csv" >"$data"
		[ ! -s "$data" ] || printf '"%s" title "%s", ' "$data" "$candidate${SUFFIX:-}"
	done
}

# plot OUT TITLE XLABEL COMMANDS LINES
plot() {
	gnuplot <<-END
		set terminal svg size 760,420 font "sans,12" background "white"
		set output "$1"
		set title "$2"
		set xlabel "$3"
		set ylabel "ns"
		set logscale y
		set grid
		set key outside right
		set style data linespoints
		$4
		plot ${5%, }
	END
}

if [ "${1:-}" = -d ]; then
	cp "$csv" docs/bench-pool.csv
	bounded=(sluice "swiotlb 6.12" "slot scan" "class locks")
	both=
	for size in 64 1024; do
		# shellcheck disable=SC2016 # for awk
		both+=$(SUFFIX=", $size MiB" lines 'w[3]' '$5' "fill,$size MiB" "${bounded[@]}")
	done
	plot docs/bench-pool.svg "one map under random replacement: 99th percentile" \
		"share of the pool in use, %" "" "$both"
	# shellcheck disable=SC2016
	plot docs/bench-pool-pairs.svg "map and unmap without the copy, one thread: median" \
		"bytes" "set logscale x 2" \
		"$(lines 'w[1]' '$4' "1 thread,[0-9]" "${bounded[@]}" malloc jemalloc mimalloc)"
fi
