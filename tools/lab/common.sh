# SPDX-License-Identifier: GPL-2.0-only
# Sourced by every script here: where things are, what they take from the environment, how to speak, how to make an
# artefact whole or not at all. What only some need is in a *.sh in the room that it is about.

set -eu
export LC_ALL=C.UTF-8
umask 022
# What users have set for what they type themselves, and for builds of their own, which "kernel" is.
unset CDPATH O OUTPUT W C
case $0 in
*/host/kernel) ;;
*)
	unset ARCH SUBARCH CROSS_COMPILE LLVM LLVM_IAS C_INCLUDE_PATH CPATH LIBRARY_PATH
	unset $(env | sed -nE 's/^([A-Z]*FLAGS(_[A-Z]*)?|(KBUILD|KCONFIG)_[A-Z_]*)=.*/\1/p')
	;;
esac

# All that scripts take from the environment: where empty or not set, it is as if nobody had heard of it.
: "${BASE:=}"		# DIR: this kernel source, instead of Debian's
: "${CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-svm-lab}"	# DIR: what is downloaded
: "${FRESH:=}"		# 1: what has not changed is run again, too
: "${VARIANT:=}"	# "checked": run and mutants have modules that check KVM's rules
: "${CONFIG:=}"		# FILE: the configuration for "kernel"
: "${SIGNOFF:=}"	# 1: "series" adds the Signed-off-by of who runs it
: "${PART:=}" "${V:=}"	# N: "series" writes that part only; it is the Nth time that it is posted
: "${URL:=}"		# URL: where what "image" makes will be, for LAVA
: "${OUT:=}"		# DIR: where "series" puts it
# shellcheck disable=SC3028 # It is make's SECONDS, no shell's.
: "${SECONDS:=}" "${SEED:=}" "${N:=}"	# N: how long "soak" takes for a set of parameters, its first seed; "mutate" has it, too
: "${WHOLE:=}"		# 1: "module" builds kvm.ko here in any case, as "bench" compares code of one compiler
: "${DEBUG_LINES:=}"	# 1: "module" keeps the line numbers of the code, for "coverage"
: "${DEBUG:=}"		# 1: a kernel that looks after itself (get/debug.config) is built, of BASE or Debian's source
: "${DEBS:=}"		# DIR: "fetch" keeps packages in there, and takes them from there
: "${HOST_RELEASE:=}" "${HOST_VERSION:=}"	# uname -r, package version: that kernel of Debian's, not the newest
: "${VM_CPU:=}" "${VM_COVER:=}" "${VM_KERNEL:=}" "${VM_LOG:=}" "${VM_ROOT:=}" "${VM_TIMEOUT:=}"	# "vm" says, and:
if [ -z "$DEBUG" ]; then : "${VM_MEMORY:=1024}" "${VM_SHIFT:=4}"; else : "${VM_MEMORY:=2048}" "${VM_SHIFT:=1}"; fi
# Besides these, "host" has one, and programs those that wrap.c says.

top=$(cd "$(dirname "$0")/../../.." && pwd)
lab=$top/tools/lab
build=$top/build

# Which Debian this is: 12, 13, 99 for one without a number (testing), 0 for anything else. Its compiler is that
# of its kernels; headers of a later Debian's are made to fit by "fetch". What is downloaded or made on one does not
# do for another.
debian=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_ID:-99}") || debian=0
case $debian in
12) gcc='gcc-12' ;;
*)  gcc='gcc-14' ;;
esac
cache=$CACHE/$debian
newest=kvm-x86
jobs=$(nproc)
# The sets of kvm_amd's parameters that everything has to hold with.
parameter_sets='default vgif=0 vls=0 npt=0 nested=0'

# --help: the comment that a script begins with.
case ${1:-} in
-h | --help) sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac
# What was said to the make that called is not for those that are called from here.
unset MAKEOVERRIDES MAKELEVEL MAKEFILES
. "$lab/get/git.sh"

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 2; }

[ -z "$DEBUG" ] || [ "$DEBUG" = 1 ] || die "DEBUG is 1 or nothing, not '$DEBUG'"
case $top$CACHE in
*[[:space:]]*) die "a path with a space will not do: this is $top, and CACHE is $CACHE" ;;
esac

# seconds_since NANOSECONDS: seconds with a decimal since that reading of date +%s%N.
seconds_since() {
	local tenths=$((($(date +%s%N) - $1) / 100000000))
	printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# step [-v NAME] TEXT PROGRAM ARG...: runs PROGRAM, prints TEXT and the seconds that it took,
# counting on a terminal meanwhile. Its standard output is kept from the user, and goes to the variable NAME; what
# it says on standard error is shown where it fails, and step exits with 2.
step() {
	local into="" text start log stdout ticker="" rc=0
	[ "$1" != -v ] || { into=$2; shift 2; }
	text=$1 start=$(date +%s%N) log=$(mktemp) stdout=$(mktemp)
	shift
	if [ -t 2 ]; then
		while kill -0 $$ 2>/dev/null; do
			printf '\r%6.1f s  %s ...' "$(seconds_since "$start")" "$text" >&2
			sleep 0.3
		done &
		ticker=$!
	else
		printf '          %s ...\n' "$text" >&2
	fi
	# shellcheck disable=SC2094 # These have no names from here on, so that none is left, whatever ends this.
	{
		rm "$log" "$stdout"
		"$@" >&8 2>&7 7>&- 8>&- || rc=$?
		[ -z "$ticker" ] || { kill "$ticker"; printf '\r\033[K' >&2; }
		if [ $rc = 0 ]; then
			printf '%6.1f s  %s\n' "$(seconds_since "$start")" "$text" >&2
		else
			say "  FAILED  $text"
			tail -n 30 /dev/fd/7 >&2
		fi
		[ -z "$into" ] || eval "$into=\$(cat /dev/fd/8)"
	} 7>"$log" 8>"$stdout"
	[ $rc = 0 ] || exit 2
}

# use_ccache: what is compiled from here on is kept in the cache. A miss costs no preprocessor of its own.
use_ccache() { export CCACHE_DIR="$cache/ccache" CCACHE_DEPEND=1; }

# key FILE...: 16 hex digits that stand for the files' content, in this order, and for this Debian. There is none if one
# of them cannot be read.
key() {
	local sums
	sums=$(sha256sum "$@") || exit 2
	{ echo "$sums" | cut -d' ' -f1; echo "$debian"; } | sha256sum | cut -c1-16
}

# produce DIR FUNCTION ARG...: unless DIR is there, runs "FUNCTION ARG... SCRATCH" and
# renames SCRATCH to DIR. If that fails or is interrupted there is no DIR; of two runs
# at once one wins, and the other takes what the first made. In a condition, as in a "step", sh goes on after a failure:
# there, FUNCTION has to return what failed.
produce() {
	[ -d "$1" ] && return
	mkdir -p "$(dirname "$1")"
	(
		local dir="$1" scratch rc
		scratch=$(mktemp -d "$1.XXXXXX")
		shift
		trap 'rm -rf "$scratch"' EXIT
		trap 'exit 130' INT TERM HUP
		chmod 755 "$scratch"
		"$@" "$scratch"
		rc=$?
		[ $rc = 0 ] || exit $rc
		mv -T "$scratch" "$dir" 2>/dev/null || [ -d "$dir" ]
	)
}

# make_scratch: makes a directory, $scratch, that is gone when the script ends, and with it what is in the background
# as $children, and all that these have started, which the terminal's INT does not get to.
make_scratch() {
	scratch=$(mktemp -d) children=
	trap 'for child in $children; do kill_tree "$child"; done; rm -rf "$scratch"' EXIT
	trap 'exit 130' INT TERM HUP
}
kill_tree() {
	local child children
	children=$(pgrep -P "$1") || :
	kill "$1" 2>/dev/null || :
	for child in $children; do kill_tree "$child"; done
}

# read_tree NAME: sets name, and what get/trees/NAME says (linux-6.12.y has a line on each); and KERNEL and WITHOUT: where
# the base is another tree's kernel with mutants, these two; otherwise NAME and nothing.
read_tree() {
	name=${1:-} KERNEL=${1:-} WITHOUT=
	case /$name in
	*[!a-z0-9/.-]* | */.* | /) false ;;
	*) [ -f "$lab/get/trees/$name" ] ;;
	esac || die "no tree '$name'; there are: $(cd "$lab/get/trees" && echo *)"
	. "$lab/get/trees/$name"
	[ -z "$BASE" ] || [ -f "$BASE/arch/x86/kvm/svm/svm.c" ] || die "BASE=$BASE is no Linux source"
	[ -z "$HOST_RELEASE" ] || HEADERS=linux-headers-$HOST_RELEASE
}
