# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# suites.sh - programs of other Debian suites, unpacked and not installed
#
# Theory of operation: some peers exist only in a later suite than the one that this machine runs
# (libblkio, passt with --vhost-user, QEMU 10). suite_get asks apt with lists of its own, made from
# the machine's own sources with only the suite's name changed, so the system's apt is left alone,
# downloads the packages and unpacks them into
#
#	$CACHE/suites/SUITE/NAME/	usr/bin/*, usr/lib/*; made last: where it exists, all is there
#
# Dependencies are not followed: the caller names what is missing, in the order of unpacking.
# A program that needs a newer C library than the machine's is started by suite_run, with the
# loader and the libraries of the folder.

# suite_apt SUITE COMMAND...: an apt program that knows that suite and nothing else.
suite_apt() {
	local suite=$1 dir=$CACHE/suites/$1/apt
	shift
	"$1" -qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o "Dir::Etc::sourceparts=$dir/parts" \
		-o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" \
		-o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0 "${@:2}" >&2 ||
		die "$1 ${*:2} failed for Debian's $suite: no network access, or the package is gone"
}

# suite_sources SUITE: write its lists of sources, from the first Debian source that apt has here.
suite_sources() {
	local dir=$CACHE/suites/$1/apt uri
	[ ! -e "$dir/lists" ] || return 0
	# shellcheck disable=SC2016 # for apt to expand
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/\?$')
	[ -n "$uri" ] || die "apt has no source of Debian's packages here: without one there is no" \
		"package of '$1' either"
	mkdir -p "$dir"/{parts,cache/archives/partial}
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $1 main" \
		>"$dir/sources.list"
	mkdir -p "$dir/lists.new/partial"
	mv "$dir/lists.new" "$dir/lists"
	suite_apt "$1" apt-get update || {
		rm -rf "$dir/lists"
		exit 1
	}
}

# debs_unpack WORK DIR: unpack the packages that are in WORK, and make of it DIR; whole or not at all.
debs_unpack() {
	local deb
	for deb in "$1"/*.deb; do
		[ -e "$deb" ] || continue
		dpkg-deb -x "$deb" "$1" || die "$deb is damaged: remove it and try again"
		rm "$deb"
	done
	chmod 755 "$1"
	mv -T "$1" "$2" 2>/dev/null || [ -e "$2" ] || die "cannot make $2: is the disk full?"
}

# suite_get SUITE NAME PACKAGE...: print the folder; download and unpack first where needed.
suite_get() {
	local suite=$1 dir=$CACHE/suites/$1/$2 work
	shift 2
	mkdir -p "$CACHE/suites"
	# One process at a time: the tests of two kernels may ask at once.
	exec 7>"$CACHE/suites/lock"
	flock 7
	if [ ! -e "$dir" ]; then
		packages_supported
		suite_sources "$suite"
		say "downloading $* of Debian's $suite (once, into $CACHE)"
		work=$(mktemp -d "$CACHE/suites/unpack.XXXXXX")
		(cd "$work" && suite_apt "$suite" apt-get download "$@") || exit 1
		debs_unpack "$work" "$dir"
	fi
	exec 7>&-
	readlink -f "$dir"
}

# suite_run DIR PROGRAM [ARG]...: run a program of that folder with the folder's own C library.
suite_run() {
	local dir=$1 program=$2 lib=$1/usr/lib/x86_64-linux-gnu
	shift 2
	"$lib/ld-linux-x86-64.so.2" --library-path "$lib:$dir/lib/x86_64-linux-gnu" "$dir/$program" "$@"
}
